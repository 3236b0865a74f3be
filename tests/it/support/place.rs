//! Directories, ports, and connections to them.

use std::fs::{self, File, Permissions};
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use super::PATIENCE;

/// A directory that any user may enter. It is removed with its value.
pub struct Dir(TempDir);

impl Dir {
    /// Makes one in /tmp, whatever TMPDIR says: the path of a unix socket holds 107 bytes.
    pub fn new() -> Self {
        let dir = tempfile::Builder::new().prefix("cs").tempdir_in("/tmp").unwrap();
        // Postfix and memcached enter it as users of their own.
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// The path of `name` in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.0.path().join(name)
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes a main.cf that seems to be old: Postfix waits until the file is two seconds old before it reads it.
    pub fn write_main_cf(&self, name: &str, text: &str) {
        let path = self.write(name, text);
        File::options().write(true).open(path).unwrap().set_modified(SystemTime::UNIX_EPOCH).unwrap();
    }
}

/// A free TCP port of a loopback address. It is reserved as long as this value
/// exists, whether or not something listens on it.
pub struct Port {
    address: SocketAddr,
    _reservation: Socket,
}

impl Port {
    /// A port of 127.0.0.1.
    pub fn new() -> Self {
        Self::of([127, 0, 0, 1])
    }

    /// A port of `host`.
    pub fn of(host: impl Into<IpAddr>) -> Self {
        let any = SocketAddr::new(host.into(), 0);
        let socket = Socket::new(Domain::for_address(any), Type::STREAM, None).unwrap();
        socket.bind(&any.into()).unwrap_or_else(|error| panic!("cannot bind {any}: {error}"));
        // Set after the bind, so that the kernel chooses a port that is not in use. From now
        // on a server that sets this option too may bind the port; no other socket gets it.
        socket.set_reuse_address(true).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Self { address, _reservation: socket }
    }

    /// A given port, which must be free.
    pub fn at(address: SocketAddr) -> Self {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.bind(&address.into()).unwrap_or_else(|error| panic!("cannot bind {address}: {error}"));
        Self { address, _reservation: socket }
    }

    /// Address and port, to connect to.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// As Postfix and connshaper write it.
    pub fn endpoint(&self) -> String {
        format!("inet:{}", self.address)
    }
}

/// A connection of either kind.
pub trait Stream: Read + Write {}
impl Stream for TcpStream {}
impl Stream for UnixStream {}

/// Connects to `inet:ADDRESS:PORT` or `unix:/PATH`. A read or write that gets nowhere fails in the end.
pub fn connect(endpoint: &str) -> io::Result<Box<dyn Stream>> {
    if let Some(path) = endpoint.strip_prefix("unix:") {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        return Ok(Box::new(stream));
    }
    let address = endpoint.strip_prefix("inet:").unwrap_or_else(|| panic!("{endpoint} is no endpoint"));
    let stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(Box::new(stream))
}
