//! Asks a proxy for a connection, to learn why it refuses: of the statuses, the HTTP client tells only 407 apart.

use reqwest::{Client, Url, header::AUTHORIZATION};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
};

/// A longer status line is no answer of a proxy.
const MAX_LINE_BYTES: u64 = 1024;

/// Returns the status with which the proxy refuses to connect to the host of this URL; `None` if it connects, or if its answer cannot
/// be known, as that of a proxy which is reached by TLS.
pub(super) async fn fetch(proxy: &Url, target: &Url) -> Option<u16> {
    if proxy.scheme() != "http" {
        return None;
    }
    let stream = TcpStream::connect(address(proxy)?).await.ok()?;
    let mut stream = BufReader::new(stream);
    stream.write_all(request(proxy, target)?.as_bytes()).await.ok()?;
    let mut line = Vec::new();
    stream.take(MAX_LINE_BYTES).read_until(b'\n', &mut line).await.ok()?;
    refusing_status(&line)
}

fn request(proxy: &Url, target: &Url) -> Option<String> {
    let host = address(target)?;
    // This moves user name and password from the URL into a header.
    let with_login = Client::builder().tls_certs_only([]).build().ok()?.get(proxy.clone()).build().ok()?;
    let login = with_login.headers().get(AUTHORIZATION).and_then(|login| login.to_str().ok());
    let login = login.map_or_else(String::new, |login| format!("Proxy-Authorization: {login}\r\n"));
    Some(format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n{login}\r\n"))
}

/// Host and port.
fn address(url: &Url) -> Option<String> {
    Some(format!("{}:{}", url.host_str()?, url.port_or_known_default()?))
}

fn refusing_status(line: &[u8]) -> Option<u16> {
    let line = std::str::from_utf8(line).ok()?;
    let status = line.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.trim_end().parse().ok()?;
    (300..600).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_has_a_status() {
        for (line, expected) in [
            ("HTTP/1.1 403 Forbidden\r\n", Some(403)),
            ("HTTP/1.0 503\r\n", Some(503)),
            ("HTTP/1.1 200 Connection established\r\n", None),
            ("SSH-2.0-OpenSSH\r\n", None),
            ("HTTP/1.1 99999 X\r\n", None),
            ("", None),
        ] {
            assert_eq!(refusing_status(line.as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn request_has_the_login_of_the_proxy() {
        let request = |proxy: &str| {
            request(&proxy.parse().unwrap(), &"https://api.weixin.qq.com/".parse().unwrap()).unwrap()
        };
        let plain = "CONNECT api.weixin.qq.com:443 HTTP/1.1\r\nHost: api.weixin.qq.com:443\r\n";
        assert_eq!(request("http://proxy.example:3128"), format!("{plain}\r\n"));
        // me:a b
        let login = "Proxy-Authorization: Basic bWU6YSBi\r\n";
        assert_eq!(request("http://me:a%20b@proxy.example:3128"), format!("{plain}{login}\r\n"));
    }
}
