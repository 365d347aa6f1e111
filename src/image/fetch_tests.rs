//! Files of URLs, from hosts on loopback that send what a test tells them to.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::Arc;

use super::*;

/// Answers each request by its path, and counts them.
struct Host {
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Host {
    fn new(answer: impl Fn(&str) -> Vec<u8> + Send + 'static) -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
                let Some(Ok(first)) = lines.next() else { continue };
                // All of it, or the answer is lost with the connection.
                while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
                counted.fetch_add(1, Ordering::AcqRel);
                let path = first.split(' ').nth(1).unwrap_or_default().to_owned();
                let _ = stream.write_all(&answer(&path));
            }
        });
        Host { port, asked }
    }

    fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Acquire)
    }
}

fn answer(status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n"
    );
    [head.as_bytes(), body].concat()
}

fn moved(to: &str) -> Vec<u8> {
    answer("302 Found", &format!("location: {to}\r\n"), b"")
}

fn fetcher(hosts: &[&str]) -> Fetcher {
    let hosts: Vec<String> = hosts.iter().map(|&host| host.into()).collect();
    Fetcher::new(&hosts, RootCerts::WebPki)
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(30)
}

fn refused(fetcher: &Fetcher, url: &str) -> String {
    let error = fetcher.fetch(url, 100, soon()).expect_err(url);
    assert!(!error.message().contains('\n'), "{error}");
    error.message().into()
}

#[test]
fn files_come_from_named_hosts_alone() {
    let host = Host::new(|path| answer("200 OK", "", path.as_bytes()));
    let known = fetcher(&["127.0.0.1", "example.org"]);
    assert_eq!(known.fetch(&host.url("/cat.png"), 100, soon()).unwrap(), b"/cat.png");
    assert_eq!(host.asked(), 1);

    let other = fetcher(&["example.org"]);
    for url in [host.url("/"), host.url("/").replace("http", "HTTP")] {
        assert!(refused(&other, &url).contains("'127.0.0.1', which 'allowed_media_domains'"));
    }
    for (url, why) in [
        (format!("http://example.org@127.0.0.1:{}/", host.port), "a user's name"),
        (format!("http://127.0.0.1:{}@example.org/", host.port), "a user's name"),
        ("file:///etc/passwd".into(), "no URL"),
        ("ftp://example.org/a".into(), "no URL of http or https"),
        ("https://".into(), "no URL"),
        ("http://a b/".into(), "no URL that can be read"),
        ("http://example.org.evil.net/".into(), "'example.org.evil.net'"),
    ] {
        assert!(refused(&other, &url).contains(why), "{url}: {}", refused(&other, &url));
    }
    assert_eq!(host.asked(), 1, "nobody was asked");
}

#[test]
fn names_lead_nowhere_inside() {
    for (host, to, inside) in [
        ("example.org", "127.0.0.1", true),
        ("example.org", "::1", true),
        ("example.org", "::ffff:127.0.0.1", true),
        ("example.org", "169.254.169.254", true),
        ("example.org", "fe80::1", true),
        ("example.org", "0.0.0.0", true),
        ("example.org", "0.1.2.3", true),
        ("example.org", "::", true),
        ("example.org", "224.0.0.1", true),
        ("localhost", "169.254.169.254", true),
        ("localhost", "127.0.0.1", false),
        ("127.0.0.1", "127.0.0.1", false),
        ("[::1]", "::1", false),
        ("minio.lan", "10.0.0.7", false),
        ("example.org", "93.184.215.14", false),
        ("example.org", "2606:2800::1", false),
    ] {
        assert_eq!(leads_inside(host, to.parse().unwrap()), inside, "{host} to {to}");
    }

    // Through the resolver: another name of this machine.
    let host = Host::new(|_| answer("200 OK", "", b"secret"));
    let resolver = JudgingResolver { own: DefaultResolver::default(), hosts: vec!["127.1".into()] };
    let agent = Agent::with_parts(Config::default(), DefaultConnector::default(), resolver);
    let named = Fetcher { hosts: vec!["127.1".into()], agent };
    let said = refused(&named, &format!("http://127.1:{}/", host.port));
    assert!(said.contains("'127.1' leads to 127.0.0.1"), "{said}");
    assert_eq!(host.asked(), 0);
}

#[test]
fn each_redirect_is_judged() {
    let inside = Host::new(|_| answer("200 OK", "", b"secret"));
    let port = inside.port;
    let host = Host::new(move |path| match path {
        "/a/b" => moved("c?d=1"),
        "/a/c?d=1" => moved("/last"),
        "/last" => answer("200 OK", "", b"here"),
        "/away" => moved(&format!("http://localhost:{port}/")),
        "/file" => moved("file:///etc/passwd"),
        "/nowhere" => answer("302 Found", "", b""),
        _ => moved("/round"),
    });
    let fetcher = fetcher(&["127.0.0.1"]);
    assert_eq!(fetcher.fetch(&host.url("/a/b"), 100, soon()).unwrap(), b"here");
    assert!(refused(&fetcher, &host.url("/away")).contains("from 'localhost'"));
    assert_eq!(inside.asked(), 0);
    assert!(refused(&fetcher, &host.url("/file")).contains("no URL"));
    assert!(refused(&fetcher, &host.url("/nowhere")).contains("sends on to nowhere"));
    let before = host.asked();
    assert!(refused(&fetcher, &host.url("/round")).contains("more than 5 redirects"));
    assert_eq!(host.asked() - before, 6);
}

#[test]
fn bytes_and_time_have_limits() {
    let host = Host::new(|path| match path {
        "/100" => answer("200 OK", "", &[7; 100]),
        "/101" => answer("200 OK", "", &[7; 101]),
        // Without a length.
        "/endless" => [&b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n"[..], &[7; 4096]].concat(),
        "/404" => answer("404 Not Found", "", b"<html>\nnone\n</html>"),
        "/503" => answer("503 Busy", "", b""),
        "/slow" => {
            std::thread::sleep(Duration::from_millis(600));
            answer("200 OK", "", b"late")
        }
        _ => b"no HTTP\n\n".to_vec(),
    });
    let fetcher = fetcher(&["127.0.0.1"]);
    assert_eq!(fetcher.fetch(&host.url("/100"), 100, soon()).unwrap().len(), 100);
    for path in ["/101", "/endless"] {
        let said = refused(&fetcher, &host.url(path));
        assert!(said.contains("larger than the 100 bytes"), "{path}: {said}");
    }
    assert!(refused(&fetcher, &host.url("/404")).ends_with("answers with status 404."));
    assert!(refused(&fetcher, &host.url("/503")).ends_with("answers with status 503."));
    assert!(refused(&fetcher, &host.url("/nonsense")).contains("cannot be reached"));

    let began = Instant::now();
    let until = began + Duration::from_millis(200);
    let error = fetcher.fetch(&host.url("/slow"), 100, until).unwrap_err();
    assert!(error.message().contains("in time"), "{error}");
    assert!(began.elapsed() < Duration::from_millis(550), "{:?}", began.elapsed());
    assert!(fetcher.fetch(&host.url("/100"), 100, began).is_err(), "no time is left");
}
