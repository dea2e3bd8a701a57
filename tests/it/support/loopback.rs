//! Loopback addresses that no other socket of the tests takes, for servers that do not choose a port by themselves, or that
//! are killed and started again on their port.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    sync::atomic::{AtomicU16, Ordering},
};

/// An IP address that is returned only once. Most sockets of the tests are on 127.0.0.1.
pub(crate) fn own_address() -> Ipv4Addr {
    static RETURNED: AtomicU16 = AtomicU16::new(0);
    let [high, low] = RETURNED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    Ipv4Addr::new(127, 1, high, low)
}

/// An address without a listener.
pub(crate) fn free_address() -> SocketAddr {
    TcpListener::bind((own_address(), 0)).unwrap().local_addr().unwrap()
}
