//! A relay in front of the simulated WeChat API that holds requests until the test releases them.

use std::{
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Condvar, Mutex},
};

use crate::support::wait::eventually;

/// A relay. Its threads end with their connections.
pub(super) struct Gate {
    address: SocketAddr,
    shared: Arc<Shared>,
}

struct Shared {
    server: SocketAddr,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    /// Requests that contain one of these texts are held.
    held: Vec<String>,
    /// The held requests.
    waiting: Vec<String>,
    connections: usize,
}

impl Gate {
    /// Starts a relay to a server, which holds nothing yet.
    pub(super) fn to(server: SocketAddr) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { server, state: Mutex::default(), released: Condvar::new() });
        let relay = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                relay.state.lock().unwrap().connections += 1;
                let shared = Arc::clone(&relay);
                std::thread::spawn(move || shared.serve(client));
            }
        });
        Self { address, shared }
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Holds later requests that contain this text. `@` may be encoded in them.
    pub(super) fn hold(&self, text: &str) {
        self.shared.state.lock().unwrap().held.push(text.to_owned());
    }

    /// Lets all held requests pass.
    pub(super) fn release(&self) {
        self.shared.state.lock().unwrap().held.clear();
        self.shared.released.notify_all();
    }

    /// How many requests with this text are held now.
    pub(super) fn held(&self, text: &str) -> usize {
        self.shared.state.lock().unwrap().waiting.iter().filter(|request| request.contains(text)).count()
    }

    pub(super) fn eventually_holds(&self, text: &str) {
        eventually("a held request", || (self.held(text) > 0).then_some(()));
    }

    /// How many connections it has accepted.
    pub(super) fn connections(&self) -> usize {
        self.shared.state.lock().unwrap().connections
    }
}

impl Shared {
    /// Relays a connection until one side ends it.
    fn serve(&self, mut client: TcpStream) {
        let Ok(mut server) = TcpStream::connect(self.server) else { return };
        let (mut answers, mut to_client) = (server.try_clone().unwrap(), client.try_clone().unwrap());
        std::thread::spawn(move || {
            // Fails when a side has gone.
            let _ = std::io::copy(&mut answers, &mut to_client);
            let _ = to_client.shutdown(Shutdown::Both);
        });
        let mut block = [0; 16_384];
        while let Ok(length @ 1..) = client.read(&mut block) {
            self.wait_for_release(&String::from_utf8_lossy(&block[..length]).replace("%40", "@"));
            if server.write_all(&block[..length]).is_err() {
                break;
            }
        }
        let _ = server.shutdown(Shutdown::Write);
    }

    fn wait_for_release(&self, request: &str) {
        let is_held = |state: &State| state.held.iter().any(|text| request.contains(text));
        let mut state = self.state.lock().unwrap();
        if !is_held(&state) {
            return;
        }
        state.waiting.push(request.to_owned());
        let mut state = self.released.wait_while(state, |state| is_held(state)).unwrap();
        let at = state.waiting.iter().position(|waiting| waiting == request).unwrap();
        state.waiting.swap_remove(at);
    }
}
