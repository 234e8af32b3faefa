//! A web server on loopback whose answers, valid or faulty, are chosen by a test.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// A received request.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The first byte of a `Range: bytes=100-`; 0 without one.
    pub(crate) fn from(&self) -> usize {
        let range = self.header("range").and_then(|range| range.strip_prefix("bytes="));
        range.and_then(|range| range.split('-').next()?.parse().ok()).unwrap_or(0)
    }
}

/// An answer.
pub(crate) enum Reply {
    /// Status, headers, body.
    Whole(u16, Vec<(&'static str, String)>, Vec<u8>),
    /// This file, or the requested range of it.
    File(Vec<u8>),
    /// Announces the file or range, sends this many bytes of it and closes the connection.
    Cut(Vec<u8>, usize),
    /// Sends the body in this many pieces with a pause before each.
    Slow(Vec<u8>, usize, Duration),
    /// Sends nothing until the client closes the connection.
    Silence,
}

/// Answers a request, given how many requests of the same method and path came before it.
type Handler = dyn Fn(&Request, usize) -> Reply + Send + Sync;

/// The running server; dropping it closes the port.
pub(crate) struct Mirror {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
    sent: Arc<AtomicUsize>,
    closing: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Mirror {
    pub(crate) fn start(
        handler: impl Fn(&Request, usize) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let log = Arc::new(Mutex::new(Vec::new()));
        let sent = Arc::new(AtomicUsize::new(0));
        let closing = Arc::new(AtomicBool::new(false));
        let handler: Arc<Handler> = Arc::new(handler);
        let acceptor = thread::spawn({
            let (log, sent, closing) = (Arc::clone(&log), Arc::clone(&sent), Arc::clone(&closing));
            move || {
                for stream in listener.incoming() {
                    if closing.load(Ordering::SeqCst) {
                        return;
                    }
                    let (log, sent, handler) =
                        (Arc::clone(&log), Arc::clone(&sent), Arc::clone(&handler));
                    // Errors are ignored: in some tests the client closes the connection early.
                    thread::spawn(move || {
                        stream.and_then(|stream| serve(&stream, &log, &sent, &*handler))
                    });
                }
            }
        });
        Self { address, log, sent, closing, acceptor: Some(acceptor) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// Bytes of bodies that were sent.
    pub(crate) fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// The `Range` headers of the `GET` requests for this path; "all" for a request without one.
    pub(crate) fn ranges(&self, path: &str) -> Vec<String> {
        let requests = self.requests();
        let of_path = requests.iter().filter(|r| r.method == "GET" && r.path == path);
        of_path.map(|r| r.header("range").unwrap_or("all").to_owned()).collect()
    }

    /// How many requests of this method went to a path that ends like this.
    pub(crate) fn count(&self, method: &str, path_end: &str) -> usize {
        self.requests().iter().filter(|r| r.method == method && r.path.ends_with(path_end)).count()
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::SeqCst);
        // Wakes the acceptor, which sees the flag.
        let _ = TcpStream::connect(self.address);
        let _ = self.acceptor.take().unwrap().join();
    }
}

/// An address on loopback without a server.
pub(crate) fn dead_url() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

/// Reads one request, sends one answer, and closes the connection.
fn serve(
    mut stream: &TcpStream,
    log: &Mutex<Vec<Request>>,
    sent: &AtomicUsize,
    handler: &Handler,
) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let Some(request) = read_request(stream)? else { return Ok(()) };
    let earlier = {
        let mut log = log.lock().unwrap();
        let same = |r: &&Request| r.method == request.method && r.path == request.path;
        let earlier = log.iter().filter(same).count();
        log.push(request.clone());
        earlier
    };
    let send = |mut stream: &TcpStream, body: &[u8]| {
        sent.fetch_add(body.len(), Ordering::SeqCst);
        stream.write_all(body)
    };
    match handler(&request, earlier) {
        Reply::Whole(status, headers, body) => {
            stream.write_all(head(status, &headers, body.len()).as_bytes())?;
            if request.method != "HEAD" {
                send(stream, &body)?;
            }
        }
        Reply::File(body) => {
            let (head, body) = part(&request, &body);
            stream.write_all(head.as_bytes())?;
            send(stream, body)?;
        }
        Reply::Cut(body, after) => {
            let (head, body) = part(&request, &body);
            stream.write_all(head.as_bytes())?;
            send(stream, &body[..after])?;
        }
        Reply::Slow(body, pieces, pause) => {
            let (head, body) = part(&request, &body);
            stream.write_all(head.as_bytes())?;
            for piece in body.chunks(body.len().div_ceil(pieces)) {
                thread::sleep(pause);
                send(stream, piece)?;
            }
        }
        Reply::Silence => {
            let _ = stream.read(&mut [0])?;
        }
    }
    Ok(())
}

/// Head and body of an answer that obeys the `Range` header.
fn part<'a>(request: &Request, file: &'a [u8]) -> (String, &'a [u8]) {
    let from = request.from();
    if request.header("range").is_none() {
        return (head(200, &[], file.len()), file);
    }
    if from >= file.len() {
        return (head(416, &[], 0), &[]);
    }
    let range = format!("bytes {from}-{}/{}", file.len() - 1, file.len());
    (head(206, &[("Content-Range", range)], file.len() - from), &file[from..])
}

fn read_request(stream: &TcpStream) -> std::io::Result<Option<Request>> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(None) };
    let mut words = first.split(' ').map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
    let mut headers = Vec::new();
    for line in lines {
        let line = line?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    Ok(Some(Request { method, path, headers }))
}

fn head(status: u16, headers: &[(&str, String)], length: usize) -> String {
    let fixed =
        format!("HTTP/1.1 {status} Made Up\r\nContent-Length: {length}\r\nConnection: close\r\n");
    headers.iter().fold(fixed, |head, (name, value)| head + name + ": " + value + "\r\n") + "\r\n"
}
