#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| connshaper_fuzz::records::run(data));
