//! Certificates that nobody else believes.

use std::process::Command;

use super::Dir;

/// An authority, and certificates of a server and a client that it has signed.
pub fn make(dir: &Dir) {
    let openssl = |words: &str| {
        let output = Command::new("openssl").args(words.split(' ')).current_dir(dir.path()).output().expect("openssl");
        assert!(output.status.success(), "openssl {words}: {}", String::from_utf8_lossy(&output.stderr));
    };
    let new_key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    dir.write("names", "subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=CA:FALSE\n");
    openssl(&format!("req -x509 {new_key} -keyout ca.key -out ca.crt -days 2 -subj /CN=authority"));
    for name in ["server", "client"] {
        openssl(&format!("req {new_key} -keyout {name}.key -out {name}.csr -subj /CN={name}"));
        openssl(&format!(
            "x509 -req -in {name}.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile names -out {name}.crt"
        ));
    }
}
