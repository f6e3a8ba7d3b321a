//! Clients over Unix sockets: the same service, the permissions that the file says, and a name that neither outlives the
//! proxy nor takes another's place.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;

use crate::support::{Fleet, PATIENCE, QuoitConfig, eventually};

fn listener(path: &Path, settings: &str) -> String {
    format!("[[listener]]\nname = \"local\"\nbind = \"unix:{}\"\npool = \"main\"\n{settings}\n", path.display())
}

fn connect(path: &Path) -> BufReader<UnixStream> {
    let stream = UnixStream::connect(path).unwrap_or_else(|error| panic!("connect to {}: {error}", path.display()));
    stream.set_read_timeout(Some(PATIENCE)).expect("a read timeout can be set");
    BufReader::new(stream)
}

/// Sends an inline request; the last of the reply's `lines`.
fn ask(client: &mut BufReader<UnixStream>, request: &str, lines: usize) -> String {
    client.get_mut().write_all(format!("{request}\r\n").as_bytes()).expect("the peer takes the bytes");
    let mut line = String::new();
    for _ in 0..lines {
        line.clear();
        client.read_line(&mut line).expect("a reply");
    }
    line.trim_end().to_owned()
}

#[test]
fn clients_over_a_unix_socket() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("quoit.sock");
    let start = |config: QuoitConfig| config.tables(&listener(&path, "socket_mode = \"0660\""));
    let Some(mut fleet) = Fleet::start_with(2, start) else { return };
    let Some(quoit) = fleet.quoit_mut() else { return };
    assert_eq!(fs::metadata(&path).expect("the socket").permissions().mode() & 0o777, 0o660);
    let mut client = connect(&path);
    assert_eq!(ask(&mut client, "SET k over-a-socket", 1), "+OK");
    assert_eq!(quoit.client().line("GET k").text(), "over-a-socket");
    let info = ask(&mut client, "CLIENT INFO", 2); // Its last line end is left to be read.
    assert!(info.contains(&format!(" addr={}:0 ", path.display())) && info.contains(" flags=U "), "{info}");
    assert_eq!(ask(&mut client, "CONFIG GET unixsocket", 6), path.display().to_string());
    assert!(quoit.metric("quoit_clients_open").iter().any(|(series, open)| series.contains("local") && *open > 0.5));

    // Who was killed leaves the name behind; the next one takes it over.
    quoit.kill9();
    assert!(path.exists());
    quoit.start_again();
    assert_eq!(ask(&mut connect(&path), "PING", 1), "+PONG");
    assert!(quoit.terminate().success());
    assert!(!path.exists(), "the name goes with the proxy");
}

#[test]
fn what_others_have_at_the_path_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("taken.sock");
    let file = directory.path().join("quoit.toml");
    let pool = "[[pool]]\nname = \"main\"\n[[pool.node]]\nname = \"a\"\naddress = \"127.0.0.1:7001\"\n";
    let text = format!("[admin]\nbind = \"off\"\n{}{pool}", listener(&path, ""));
    fs::write(&file, text).expect("a file");
    let fails = || {
        let quoit = env!("CARGO_BIN_EXE_quoit");
        let output = Command::new(quoit).arg("serve").arg("--config").arg(&file).output().expect("quoit runs");
        assert!(!output.status.success());
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(said.contains(&format!("listen on unix:{}", path.display())), "{said}");
    };
    fs::write(&path, "precious").expect("a file");
    fails();
    assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
    fs::remove_file(&path).expect("the file");
    let other = UnixListener::bind(&path).expect("a socket");
    fails();
    assert!(fs::metadata(&path).expect("the socket").file_type().is_socket());
    drop(other);
}

/// A proxy that took over the path keeps it when the one before it ends.
#[test]
fn the_name_of_a_successor_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("quoit.sock");
    let Some(mut fleet) = Fleet::start_with(1, |config| config.tables(&listener(&path, ""))) else { return };
    let Some(quoit) = fleet.quoit_mut() else { return };
    fs::rename(&path, directory.path().join("old.sock")).expect("the socket");
    let successor = UnixListener::bind(&path).expect("a socket");
    assert!(quoit.terminate().success());
    eventually("the successor is there", PATIENCE, || UnixStream::connect(&path).is_ok());
    drop(successor);
}
