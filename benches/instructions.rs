//! Instructions in user space that the daemon spends on a request, part by part.
//!
//! `cargo run --example instructions` prints them; `-- --check` fails when they are more than three per cent over
//! the number in `benches/instructions.txt`, and `-- --keep` writes that file. They are counted by callgrind, so
//! other work on the machine makes no difference. `-- --limits` prints how a request grows with the number of limits,
//! and the parts of a request with twenty; `-- --features` what a request costs with and without calendar windows,
//! spellings of mailboxes, names in lists, and databases of networks.
//!
//! Eight policy connections ask in turn, each request the first of a new session of one of a thousand IPv4 clients,
//! and the daemon counts in its own memory. The difference between 8,000 requests and 4,000 leaves the start and the
//! end out.

#[allow(dead_code, reason = "short requests are for filling stores")]
#[path = "request_path/request.rs"]
mod request;

#[allow(dead_code, reason = "the tests write records of other makers too")]
#[path = "../tests/it/support/mmdb.rs"]
mod mmdb;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{Read, Write};
use std::net::Ipv4Addr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use ipnet::{IpNet, Ipv4Net};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use mmdb::Field;
use request::{Client, DUNNO, Requests};

const CONNECTIONS: usize = 8;
const CLIENTS: u32 = 1_000;
const FEW: u32 = 4_000;
const MANY: u32 = 8_000;

/// By how much the number may exceed the one that is kept, in per cent.
const TOLERANCE: f64 = 3.0;

/// Where the number is kept.
const KEPT: &str = "benches/instructions.txt";

/// callgrind runs a program some fifty times slower.
const START_TIMEOUT: Duration = Duration::from_secs(60);

/// Parts of a request, by what the path of a source file begins with. The first match counts.
const PARTS: [(&str, &str); 14] = [
    ("src/postfix/decoder.rs", "decoding"),
    ("src/policy/attribute", "decoding"),
    ("src/policy/request", "decoding"),
    ("src/session", "session"),
    ("src/policy/record", "session"),
    ("src/policy", "policy: plan, judge"),
    ("src/net/netblock", "policy: plan, judge"),
    ("src/store", "store"),
    ("src/net/clock", "clock"),
    ("src/net/stream", "reading and writing"),
    ("src/postfix", "reading and writing"),
    ("src/engine", "engine: decide, report"),
    ("src/observe", "engine: decide, report"),
    ("src/", "rest of connshaper"),
];

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let program = build()?;
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => print_parts(&program, "").map(|_| ()),
        ["--keep"] => Ok(fs::write(KEPT, format!("{:.0}\n", print_parts(&program, "")?))?),
        ["--check"] => check(print_parts(&program, "")?),
        ["--limits"] => print_growth(&program),
        ["--features"] => print_features(&program),
        _ => bail!("unknown arguments; there are --check, --keep, --limits and --features"),
    }
}

/// Prints what a request costs with these further limits, part by part and file by file. Returns the sum.
fn print_parts(program: &Path, limits: &str) -> anyhow::Result<f64> {
    let costs = costs(program, limits, None)?;
    let sources = Sources::look_up(program, costs.keys())?;
    let mut parts = BTreeMap::<String, f64>::new();
    let mut files = BTreeMap::<String, f64>::new();
    for (place, cost) in &costs {
        let file = sources.file(place);
        *parts.entry(part(place, file)).or_default() += cost;
        if let Some(file) = file {
            *files.entry(file.to_owned()).or_default() += cost;
        }
    }
    let all: f64 = parts.values().sum();
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    println!("| part | instructions of a request |\n| --- | --- |");
    for (part, cost) in parts.iter().filter(|(_, cost)| *cost >= 1.0) {
        println!("| {part} | {cost:.0} |");
    }
    println!("| all | {all:.0} |");
    // What runs less often than once in some requests is not on their way.
    files.retain(|_, cost| *cost >= 1.0);
    println!("\n{} source files on the way:", files.len());
    for (file, cost) in &files {
        println!("{cost:6.0} {file}");
    }
    Ok(all)
}

/// How many limits there may be.
const NUMBERS: [usize; 5] = [1, 2, 5, 20, 100];

/// Prints how a request grows with limits that count it, and with limits whose `match` does not hold.
fn print_growth(program: &Path) -> anyhow::Result<()> {
    let all = |limits: &str| anyhow::Ok(costs(program, limits, None)?.values().sum::<f64>());
    let one = all("")?;
    println!(
        "| limits | all count it | each further one | all but one have a `match` that does not hold | each further one |"
    );
    println!("| --- | --- | --- | --- | --- |\n| 1 | {one:.0} | | {one:.0} | |");
    for number in NUMBERS.into_iter().skip(1) {
        let [counting, idle] = ["", NO_MATCH].map(|more| all(&further(number - 1, more)));
        let (counting, idle) = (counting?, idle?);
        let each = |all: f64| (all - one) / (number - 1) as f64;
        println!("| {number} | {counting:.0} | {:.0} | {idle:.0} | {:.0} |", each(counting), each(idle));
    }
    for more in ["", NO_MATCH] {
        println!("\nWith 20 limits{}:\n", if more.is_empty() { "" } else { ", of which one counts it" });
        print_parts(program, &further(19, more))?;
    }
    Ok(())
}

/// A condition that no request of this load meets.
const NO_MATCH: &str = "match = { sasl_username = \"nobody@example.com\" }\n";

/// Limits on the connections of a client, each with these lines.
fn further(number: usize, more: &str) -> String {
    (0..number).map(|at| format!("[limit.further{at}]\nthreshold = 1000000\nexptime = \"1h\"\n{more}")).collect()
}

/// Prints what each feature costs a request that it is about.
fn print_features(program: &Path) -> anyhow::Result<()> {
    let directory = tempfile::Builder::new().prefix("connshaper-bench-").tempdir()?;
    let database = |word: &str, record: fn(u32) -> Field| {
        let path = directory.path().join(word);
        let networks: Vec<_> = networks().zip(1..).map(|(net, number)| (net, record(number))).collect();
        fs::write(&path, mmdb::mmdb(word, &networks))?;
        anyhow::Ok(format!("{word}_database = \"{}\"\n", path.display()))
    };
    let asn = database("asn", |number| mmdb::asn(64_500 + number, "Operator"))?;
    let country = database("country", |number| mmdb::country(if number % 2 == 0 { "ZZ" } else { "XA" }))?;
    let names: Vec<_> = (0..10_000).map(|number| format!("\"mail-{number}.example.com\"")).collect();
    let names = format!("whitelist = [{}]\n", names.join(","));
    let per = |part: &str| format!("[limit.more]\nthreshold = 1000000\nexptime = \"1h\"\nper = \"{part}\"\n");
    let [client, sender, of_asn, of_country] = ["client", "sender", "asn", "country"].map(per);
    const HOUR: &str = "exptime = \"1h\"\n";
    let batv = Some("prvs=0123456789=firstname.lastname@example.net");
    // What is compared: the limits without the feature and with it, the keys that switch it on, and the sender.
    let features: [(&str, &str, &str, &str, Option<&str>); 6] = [
        ("`window = \"calendar\"`", HOUR, "window = \"calendar\"\n", HOUR, None),
        ("`recipient_delimiter`, an extension", &sender, "recipient_delimiter = \"+\"\n", &sender, None),
        ("`canonical_senders`, a sender of BATV", &sender, "canonical_senders = true\n", &sender, batv),
        ("10,000 names in `whitelist`", "", &names, "", None),
        ("`per = \"asn\"` instead of `\"client\"`", &client, &asn, &of_asn, None),
        ("`per = \"country\"` instead of `\"client\"`", &client, &country, &of_country, None),
    ];
    println!("| feature | without it | with it | it costs |\n| --- | --- | --- | --- |");
    for (feature, without, keys, with, sender) in features {
        let all = |lines: &str| anyhow::Ok(costs(program, lines, sender)?.values().sum::<f64>());
        let (without, with) = (all(without)?, all(&format!("{keys}{with}"))?);
        println!("| {feature} | {without:.0} | {with:.0} | {:.0} |", with - without);
    }
    Ok(())
}

/// The netblocks of 256 addresses from 100.96.0.0 to 100.111.255.0, in which the clients are.
fn networks() -> impl Iterator<Item = IpNet> {
    let first = Ipv4Addr::new(100, 96, 0, 0).to_bits();
    (0..4096).map(move |number| IpNet::V4(Ipv4Net::new_assert((first + (number << 8)).into(), 24)))
}

fn check(all: f64) -> anyhow::Result<()> {
    let kept: f64 = fs::read_to_string(KEPT).context(KEPT)?.trim().parse().context(KEPT)?;
    let more = (all / kept - 1.0) * 100.0;
    println!("\n{KEPT} says {kept:.0}; this is {more:+.1} %");
    ensure!(
        more <= TOLERANCE,
        "{all:.0} instructions of a request are more than {TOLERANCE} % over {kept:.0} of {KEPT}"
    );
    Ok(())
}

/// The program as it is released, with the symbols that a profile needs.
fn build() -> anyhow::Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let arguments = ["build", "--quiet", "--locked", "--profile", "instructions", "--bin", "connshaper"];
    let status = Command::new(cargo).args(arguments).status()?;
    ensure!(status.success(), "cargo build: {status}");
    // This program is target/debug/examples/instructions.
    let target = std::env::current_exe()?.ancestors().nth(3).context("no target folder")?.to_owned();
    Ok(target.join("instructions/connshaper"))
}

/// An instruction: the object it is in, its function, and its address there.
type Place = (String, String, u64);

/// How often each instruction of the daemon is executed for a request with these further lines in its configuration.
/// `sender` stands in place of the usual one.
fn costs(program: &Path, lines: &str, sender: Option<&str>) -> anyhow::Result<HashMap<Place, f64>> {
    let [few, many] = [FEW, MANY].map(|requests| profile(program, lines, sender, requests));
    let (few, many) = (few?, many?);
    let of_one = |(place, cost): (Place, u64)| {
        let more = cost.saturating_sub(few.get(&place).copied().unwrap_or(0));
        (place, more as f64 / f64::from(MANY - FEW))
    };
    Ok(many.into_iter().map(of_one).collect())
}

/// How often each instruction was executed until the daemon had answered that many requests and ended.
fn profile(program: &Path, lines: &str, sender: Option<&str>, requests: u32) -> anyhow::Result<HashMap<Place, u64>> {
    let directory = tempfile::Builder::new().prefix("connshaper-bench-").tempdir()?;
    let (socket, output) = (directory.path().join("policy.sock"), directory.path().join("callgrind.out"));
    let configuration = directory.path().join("connshaper.toml");
    let endpoint = format!("listen = \"unix:{}\"\nthreshold = 10000\n", socket.display());
    fs::write(&configuration, endpoint + lines)?;
    let log = fs::File::create(directory.path().join("log"))?;
    let mut daemon = Command::new("valgrind")
        .args(["--quiet", "--tool=callgrind", "--dump-instr=yes", "--compress-strings=no", "--compress-pos=no"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(program)
        .arg("-c")
        .arg(&configuration)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .context("cannot start valgrind")?;
    let asked = ask(&socket, sender, requests);
    kill(Pid::from_raw(daemon.id() as i32), Signal::SIGTERM)?;
    let status = daemon.wait()?;
    let log = || fs::read_to_string(directory.path().join("log")).unwrap_or_default();
    asked.with_context(log)?;
    ensure!(status.success(), "connshaper under valgrind: {status}\n{}", log());
    parse(&fs::read_to_string(&output)?)
}

fn ask(socket: &Path, sender: Option<&str>, requests: u32) -> anyhow::Result<()> {
    let begin = Instant::now();
    let first = loop {
        match UnixStream::connect(socket) {
            Ok(stream) => break stream,
            Err(error) if begin.elapsed() > START_TIMEOUT => return Err(error).context("the daemon does not start"),
            Err(_) => sleep(Duration::from_millis(10)),
        }
    };
    let mut connections = vec![first];
    for _ in 1..CONNECTIONS {
        connections.push(UnixStream::connect(socket)?);
    }
    let (mut text, mut reply) = (Requests::full(), [0; 1024]);
    for number in 0..requests {
        let process = number as usize % CONNECTIONS;
        let connection = &mut connections[process];
        connection.write_all(&with_sender(text.next(Client::V4(number % CLIENTS), process), sender)?)?;
        let length = connection.read(&mut reply)?;
        ensure!(&reply[..length] == DUNNO, "unexpected reply {:?}", String::from_utf8_lossy(&reply[..length]));
    }
    Ok(())
}

/// A request with another sender.
fn with_sender<'r>(request: &'r [u8], sender: Option<&str>) -> anyhow::Result<Cow<'r, [u8]>> {
    let Some(sender) = sender else { return Ok(request.into()) };
    let name = b"\nsender=";
    let begin = memchr::memmem::find(request, name).context("a request without a sender")? + name.len();
    let length = memchr::memchr(b'\n', &request[begin..]).context("a line without an end")?;
    Ok([&request[..begin], sender.as_bytes(), &request[begin + length..]].concat().into())
}

/// Reads callgrind's output: lines `ob=`, `fn=`, and `0xADDRESS LINE COST`. The line after `calls=` is the cost of
/// what is called, which has lines of its own.
fn parse(text: &str) -> anyhow::Result<HashMap<Place, u64>> {
    let mut costs = HashMap::new();
    let (mut object, mut function, mut is_call) = (String::new(), String::new(), false);
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("ob=") {
            object = name.to_owned();
        } else if let Some(name) = line.strip_prefix("fn=") {
            function = name.to_owned();
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if let Some(rest) = line.strip_prefix("0x") {
            if std::mem::take(&mut is_call) {
                continue;
            }
            let mut fields = rest.split(' ');
            let address = u64::from_str_radix(fields.next().unwrap_or_default(), 16)?;
            let cost: u64 = fields.nth(1).context("a line without a cost")?.parse()?;
            *costs.entry((object.clone(), function.clone(), address)).or_default() += cost;
        }
    }
    ensure!(!costs.is_empty(), "callgrind counted nothing");
    Ok(costs)
}

/// Which source file of connshaper each instruction of the program comes from, through what was compiled into it.
struct Sources {
    program: String,
    files: HashMap<u64, String>,
}

impl Sources {
    fn look_up<'p>(program: &Path, places: impl Iterator<Item = &'p Place>) -> anyhow::Result<Self> {
        let name = program.to_string_lossy().into_owned();
        let addresses: BTreeSet<u64> =
            places.filter(|(object, ..)| *object == name).map(|(_, _, address)| *address).collect();
        let root = format!("{}/src/", env!("CARGO_MANIFEST_DIR"));
        let mut files = HashMap::new();
        for some in addresses.iter().collect::<Vec<_>>().chunks(2_000) {
            let output = Command::new("addr2line")
                .args(["--addresses", "--inlines", "-e"])
                .arg(program)
                .args(some.iter().map(|address| format!("{address:#x}")))
                .output()
                .context("cannot start addr2line, which is part of binutils")?;
            let text = String::from_utf8(output.stdout)?;
            let mut address = 0;
            for line in text.lines() {
                if let Some(number) = line.strip_prefix("0x") {
                    address = u64::from_str_radix(number, 16)?;
                } else if let Some(file) = line.strip_prefix(&root).or(line.strip_prefix("src/")) {
                    // The innermost file comes first.
                    let file = format!("src/{}", file.split(':').next().unwrap_or_default());
                    files.entry(address).or_insert(file);
                }
            }
        }
        ensure!(!files.is_empty(), "addr2line finds no source file of {name}");
        Ok(Self { program: name, files })
    }

    fn file(&self, (object, _, address): &Place) -> Option<&str> {
        if *object == self.program { self.files.get(address).map(String::as_str) } else { None }
    }
}

/// The part of a request that an instruction belongs to.
fn part((object, function, _): &Place, file: Option<&str>) -> String {
    if let Some(file) = file {
        let part = PARTS.iter().find(|(start, _)| file.starts_with(start));
        return part.map_or("rest of connshaper", |(_, part)| *part).to_owned();
    }
    if function.contains("mem") && !object.ends_with("connshaper") {
        return "C library: copying and comparing".to_owned();
    }
    if !object.ends_with("connshaper") {
        return "C library: system calls, clock".to_owned();
    }
    // Code of libraries of which no caller is known, for it was not compiled into it.
    const LIBRARIES: [(&str, &str); 8] = [
        ("tokio", "tokio"),
        ("mio", "tokio"),
        ("siphasher", "hashing"),
        ("net::parser", "decoding"),
        ("Timespec", "clock"),
        ("arc_swap", "engine: decide, report"),
        ("bytes", "reading and writing"),
        ("memchr", "decoding"),
    ];
    let known = LIBRARIES.iter().find(|(library, _)| function.contains(library));
    known.map_or("rest", |(_, part)| *part).to_owned()
}
