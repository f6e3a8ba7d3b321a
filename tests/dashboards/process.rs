//! Programs that a test starts and ends: quoit, its stores, and Prometheus; and the few bytes of HTTP to ask them.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

use serde_json::Value;

const SOCKET_TIMEOUT: Duration = Duration::from_secs(10);

/// A program that ends with its handle. What it said is in a file, shown when the test fails.
pub(crate) struct Program {
    child: Child,
    said: PathBuf,
}

impl Program {
    /// # Errors
    /// The program is missing.
    pub(crate) fn start(command: &mut Command, directory: &Path, name: &str) -> io::Result<Program> {
        let said = directory.join(format!("{name}.log"));
        let log = File::create(&said)?;
        let child = command.current_dir(directory).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Program { child, said })
    }

    /// Whether it still runs.
    pub(crate) fn runs(&mut self) -> bool {
        self.child.try_wait().is_ok_and(|ended| ended.is_none())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself: then there is nothing to end.
        drop(self.child.kill());
        drop(self.child.wait());
        if std::thread::panicking() {
            eprintln!("{}:\n{}", self.said.display(), std::fs::read_to_string(&self.said).unwrap_or_default());
        }
    }
}

/// A port of the loopback address that nobody listened on a moment ago.
pub(crate) fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

pub(crate) fn connect(port: u16) -> io::Result<TcpStream> {
    let stream = TcpStream::connect_timeout(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)), SOCKET_TIMEOUT)?;
    stream.set_read_timeout(Some(SOCKET_TIMEOUT))?;
    stream.set_write_timeout(Some(SOCKET_TIMEOUT))?;
    Ok(stream)
}

/// Status and body of an answer. HTTP/1.0: the body ends with the connection.
pub(crate) fn http(port: u16, method: &str, target: &str) -> io::Result<(u16, String)> {
    let mut stream = connect(port)?;
    write!(stream, "{method} {target} HTTP/1.0\r\nHost: localhost\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or(io::ErrorKind::InvalidData)?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
    Ok((status, body.to_owned()))
}

/// The series that Prometheus finds for a query; `Err` says what it did not like about it.
pub(crate) fn query(prometheus_port: u16, query: &str) -> Result<Vec<Value>, String> {
    let mut target = String::from("/api/v1/query?query=");
    for byte in query.bytes() {
        write!(target, "%{byte:02X}").map_err(|error| error.to_string())?;
    }
    let (_status, body) =
        http(prometheus_port, "GET", &target).map_err(|error| format!("prometheus does not answer: {error}"))?;
    let answer: Value = serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))?;
    if answer["status"] != "success" {
        return Err(answer["error"].to_string());
    }
    answer["data"]["result"].as_array().cloned().ok_or_else(|| format!("not a list of series: {body}"))
}
