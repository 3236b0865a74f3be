//! The directories and configuration of a private Postfix. Both the tests and the benchmark of the request path use it.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use nix::unistd::{Group, User};

/// The directories of an instance. Their owner removes them.
pub struct Spool(PathBuf);

impl Spool {
    /// Makes them in an existing, empty directory.
    pub fn new(root: PathBuf) -> io::Result<Self> {
        let spool = Self(root);
        let owner = User::from_name(&built_in("mail_owner")?)?.expect("Postfix' user");
        let group = Group::from_name(&built_in("setgid_group")?)?.expect("Postfix' group");
        let make = |name: &str, mode, group: Option<&Group>| {
            let path = spool.path(name);
            fs::create_dir(&path)?;
            chown(&path, Some(owner.uid.as_raw()), group.map(|group| group.gid.as_raw()))?;
            fs::set_permissions(&path, Permissions::from_mode(mode))
        };
        for name in ["etc", "queue", "queue/pid"] {
            fs::create_dir(spool.path(name))?;
        }
        make("data", 0o700, None)?;
        for name in QUEUES {
            make(&format!("queue/{name}"), 0o700, None)?;
        }
        make("queue/maildrop", 0o1730, Some(&group))?;
        make("queue/public", 0o2710, Some(&group))?;
        Ok(spool)
    }

    /// The path of `name` in it.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.join(name)
    }

    /// Writes main.cf and master.cf, with these lines added. A parameter given twice has its last value.
    pub fn configure(&self, main_cf: &str, services: &str) -> io::Result<()> {
        let path = self.path("etc/main.cf");
        fs::write(&path, format!("{}\n{main_cf}", MAIN_CF.replace("PLACE", &self.0.display().to_string())))?;
        // Postfix waits until main.cf is two seconds old before it reads the file.
        File::options().write(true).open(path)?.set_modified(SystemTime::UNIX_EPOCH)?;
        fs::write(self.path("etc/master.cf"), format!("{services}\n{MASTER_CF}"))
    }
}

/// A value built into Postfix.
pub fn built_in(name: &str) -> io::Result<String> {
    let output = Command::new("postconf").args(["-d", "-h", name]).output();
    let output = output.map_err(|error| io::Error::other(format!("cannot run postconf, of Postfix: {error}")))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

const QUEUES: [&str; 10] =
    ["active", "bounce", "corrupt", "defer", "deferred", "flush", "hold", "incoming", "private", "trace"];

const MAIN_CF: &str = "
compatibility_level = 3.6
queue_directory = PLACE/queue
data_directory = PLACE/data
maillog_file = PLACE/log
maillog_file_prefixes = PLACE/
inet_protocols = all
myhostname = mx.example.org
mydestination = example.org
# Loopback clients are strangers here.
mynetworks = 192.0.2.25
smtpd_relay_restrictions = reject_unauth_destination
# Asks no name server.
smtpd_peername_lookup = no
alias_maps =
local_recipient_maps =
local_transport = discard:
";

const MASTER_CF: &str = "
postlog unix-dgram n - n - 1 postlogd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
flush unix n - n 1000? 0 flush
anvil unix - - n - 1 anvil
error unix - - n - - error
retry unix - - n - - error
discard unix - - n - - discard
";
