//! Load generator: N clients on keep-alive HTTP/1.1 connections, each sends its next request when
//! the answer to the last one is complete (closed loop). `ci/bench` runs it; it knows nothing of
//! the library.
//!
//! `loadgen PORT PATH CLIENTS SECONDS BODY` prints one line of JSON. One thread and epoll: on a
//! small machine the server shares the cores, and a thread per client would bill it for our context
//! switches.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// After the end of the measurement, how long answers may still take before they count as lost.
const DRAIN: Duration = Duration::from_secs(30);

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [port, path, clients, seconds, body] = args.as_slice() else {
        eprintln!("usage: loadgen PORT PATH CLIENTS SECONDS BODY");
        std::process::exit(2);
    };
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let clients = clients.parse().expect("CLIENTS is a number");
    let port = port.parse().expect("PORT is a number");
    let seconds = Duration::from_secs_f64(seconds.parse().expect("SECONDS is a number"));
    match run(port, request.as_bytes(), clients, seconds) {
        Ok(line) => println!("{line}"),
        Err(error) => {
            eprintln!("loadgen: {error}");
            std::process::exit(1);
        }
    }
}

/// Everything that was observed; times in seconds.
#[derive(Default)]
struct Tally {
    latency: Vec<f64>,
    first_event: Vec<f64>,
    event_gap: Vec<f64>,
    events: u64,
    /// Sum of `num_output_tokens`, where the request asks for it.
    tokens: u64,
    errors: u64,
}

fn run(port: u16, request: &[u8], count: usize, span: Duration) -> std::io::Result<String> {
    let epoll = Epoll::new()?;
    let mut clients = Vec::with_capacity(count);
    let start = Instant::now();
    for index in 0..count {
        let mut client = Client::connect(port)?;
        client.send(request)?;
        epoll.watch(&client.socket, index as u64)?;
        clients.push(client);
    }

    let end = start + span;
    let mut live = count;
    let mut tally = Tally::default();
    let mut block = vec![0u8; 64 << 10];
    while live > 0 && Instant::now() < end + DRAIN {
        for index in epoll.wait()? {
            let client = &mut clients[index as usize];
            match client.receive(&mut block, &mut tally) {
                Ok(Progress::Waiting) => {}
                Ok(Progress::Complete) if Instant::now() < end => client.send(request)?,
                Ok(Progress::Complete) => live -= 1,
                Err(_) => {
                    tally.errors += 1;
                    live -= 1;
                    epoll.forget(&client.socket)?;
                }
            }
        }
    }

    tally.errors += live as u64;
    Ok(report(count, start.elapsed().as_secs_f64(), &mut tally))
}

fn report(clients: usize, seconds: f64, tally: &mut Tally) -> String {
    let answers = tally.latency.len();
    serde_json::json!({
        "clients": clients,
        "seconds": rounded(seconds, 10.0),
        "answers": answers,
        "errors": tally.errors,
        "answers_per_s": rounded(answers as f64 / seconds, 10.0),
        "latency_p50_ms": percentile_ms(&mut tally.latency, 0.50),
        "latency_p99_ms": percentile_ms(&mut tally.latency, 0.99),
        "events": tally.events,
        "tokens": tally.tokens,
        "events_per_s": rounded(tally.events as f64 / seconds, 10.0),
        "ttft_p50_ms": percentile_ms(&mut tally.first_event, 0.50),
        "ttft_p99_ms": percentile_ms(&mut tally.first_event, 0.99),
        "event_gap_p50_ms": percentile_ms(&mut tally.event_gap, 0.50),
        "event_gap_p99_ms": percentile_ms(&mut tally.event_gap, 0.99),
    })
    .to_string()
}

fn rounded(value: f64, steps_per_unit: f64) -> f64 {
    (value * steps_per_unit).round() / steps_per_unit
}

/// Nearest-rank percentile in milliseconds; 0 when nothing was observed.
fn percentile_ms(seconds: &mut [f64], share: f64) -> f64 {
    if seconds.is_empty() {
        return 0.0;
    }
    seconds.sort_by(f64::total_cmp);
    rounded(seconds[((seconds.len() - 1) as f64 * share) as usize] * 1e3, 1e3)
}

/// The answer's own count of its tokens, over all events.
fn tokens(answer: &[u8]) -> u64 {
    const KEY: &[u8] = b"\"num_output_tokens\":";
    let mut sum = 0;
    let mut rest = answer;
    while let Some(at) = find(rest, KEY) {
        rest = &rest[at + KEY.len()..];
        let digits = rest.iter().take_while(|c| c.is_ascii_digit());
        sum += digits.fold(0, |n, c| 10 * n + u64::from(c - b'0'));
    }
    sum
}

enum Progress {
    Waiting,
    Complete,
}

/// How far into the body of the answer we are.
enum Body {
    Head,
    /// Content-Length: this many bytes are still to come.
    Sized(usize),
    /// Transfer-Encoding: chunked; chunk headers are looked for at `Client::at`.
    Chunked,
}

struct Client {
    socket: TcpStream,
    answer: Vec<u8>,
    at: usize,
    body: Body,
    failed: bool,
    sent: Instant,
    last_event: Option<Instant>,
}

impl Client {
    fn connect(port: u16) -> std::io::Result<Client> {
        let socket = TcpStream::connect(("127.0.0.1", port))?;
        socket.set_nodelay(true)?;
        socket.set_nonblocking(true)?;
        let now = Instant::now();
        Ok(Client {
            socket,
            answer: Vec::with_capacity(16 << 10),
            at: 0,
            body: Body::Head,
            failed: false,
            sent: now,
            last_event: None,
        })
    }

    fn send(&mut self, request: &[u8]) -> std::io::Result<()> {
        self.answer.clear();
        self.at = 0;
        self.body = Body::Head;
        self.failed = false;
        self.last_event = None;
        self.sent = Instant::now();
        // A request is far smaller than an empty socket buffer: it is written whole or the run
        // fails.
        self.socket.write_all(request)
    }

    fn receive(&mut self, block: &mut [u8], tally: &mut Tally) -> std::io::Result<Progress> {
        let got = match self.socket.read(block) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(got) => got,
            Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(Progress::Waiting),
            Err(e) => return Err(e),
        };
        self.answer.extend_from_slice(&block[..got]);
        let now = Instant::now();
        if !self.advance(now, tally)? {
            return Ok(Progress::Waiting);
        }
        if self.failed {
            tally.errors += 1;
        } else {
            tally.latency.push((now - self.sent).as_secs_f64());
            tally.tokens += tokens(&self.answer);
        }
        Ok(Progress::Complete)
    }

    /// Parse what has arrived. True when the answer is complete.
    fn advance(&mut self, now: Instant, tally: &mut Tally) -> std::io::Result<bool> {
        if matches!(self.body, Body::Head) {
            let Some(end) = find(&self.answer, b"\r\n\r\n") else { return Ok(false) };
            self.read_head(end)?;
            self.at = end + 4;
        }

        if let Body::Sized(length) = self.body {
            let complete = self.answer.len() >= self.at + length;
            if complete {
                self.failed |= find(&self.answer[self.at..], b"{\"error\"").is_some();
            }
            return Ok(complete);
        }

        loop {
            let rest = &self.answer[self.at..];
            let Some(line) = find(rest, b"\r\n") else { return Ok(false) };
            let length = chunk_length(&rest[..line])?;
            let whole = line + 2 + length + 2;
            if rest.len() < whole {
                return Ok(false);
            }
            if length == 0 {
                return Ok(true);
            }

            let payload = &rest[line + 2..line + 2 + length];
            self.failed |= find(payload, b"{\"error\"").is_some();
            let events = payload.windows(6).filter(|w| w == b"data: ").count();
            self.at += whole;
            for _ in 0..events {
                self.event(now, tally);
            }
        }
    }

    fn read_head(&mut self, end: usize) -> std::io::Result<()> {
        let head = String::from_utf8_lossy(&self.answer[..end]).to_ascii_lowercase();
        self.failed = !head.starts_with("http/1.1 200");
        let field = |name: &str| {
            head.lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
        };
        self.body = match field("content-length:") {
            Some(length) => Body::Sized(length.parse().map_err(|_| ErrorKind::InvalidData)?),
            None if field("transfer-encoding:").as_deref() == Some("chunked") => Body::Chunked,
            None => return Err(ErrorKind::InvalidData.into()),
        };
        Ok(())
    }

    fn event(&mut self, now: Instant, tally: &mut Tally) {
        match self.last_event {
            None => tally.first_event.push((now - self.sent).as_secs_f64()),
            Some(last) => tally.event_gap.push((now - last).as_secs_f64()),
        }
        self.last_event = Some(now);
        tally.events += 1;
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

fn chunk_length(line: &[u8]) -> std::io::Result<usize> {
    let text = std::str::from_utf8(line).map_err(|_| ErrorKind::InvalidData)?;
    let digits = text.split(';').next().unwrap_or_default().trim();
    usize::from_str_radix(digits, 16).map_err(|_| ErrorKind::InvalidData.into())
}

/// The three epoll calls. Sockets are watched level-triggered for input, under a number of the
/// caller's.
struct Epoll(std::os::fd::OwnedFd);

impl Epoll {
    fn new() -> std::io::Result<Epoll> {
        use std::os::fd::FromRawFd;
        // SAFETY: no pointers are passed; a descriptor that is not negative is ours alone to close.
        unsafe {
            match libc::epoll_create1(libc::EPOLL_CLOEXEC) {
                -1 => Err(std::io::Error::last_os_error()),
                fd => Ok(Epoll(std::os::fd::OwnedFd::from_raw_fd(fd))),
            }
        }
    }

    fn control(&self, operation: i32, socket: &TcpStream, number: u64) -> std::io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: number };
        // SAFETY: both descriptors are open for the length of the call and `event` outlives it.
        let done = unsafe {
            libc::epoll_ctl(self.0.as_raw_fd(), operation, socket.as_raw_fd(), &mut event)
        };
        if done == -1 {
            Err(std::io::Error::last_os_error())
        } else {
            Ok(())
        }
    }

    fn watch(&self, socket: &TcpStream, number: u64) -> std::io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, socket, number)
    }

    fn forget(&self, socket: &TcpStream) -> std::io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, socket, 0)
    }

    /// Numbers of the sockets that have input; empty after a second without any.
    fn wait(&self) -> std::io::Result<Vec<u64>> {
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; 256];
        // SAFETY: the kernel writes at most events.len() entries into an array of that length.
        let count = unsafe {
            libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), events.len() as i32, 1000)
        };
        match usize::try_from(count) {
            Ok(count) => Ok(events[..count].iter().map(|e| e.u64).collect()),
            Err(_) => match std::io::Error::last_os_error() {
                e if e.kind() == ErrorKind::Interrupted => Ok(Vec::new()),
                e => Err(e),
            },
        }
    }
}
