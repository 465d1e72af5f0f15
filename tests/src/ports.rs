//! Ports for servers that have to be told one beforehand.

use std::hash::{BuildHasher, RandomState};
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::sync::{Mutex, PoisonError};

/// Below what systems give to outgoing connections (Linux: 32768 and up; RFC 6335: 49152 and up), any
/// of which may take a server's port before it listens, and below what tests/services choose from.
const FIRST: u16 = 10_000;
const COUNT: u16 = 10_000;

/// A port nobody listens on, which no other call gets while this process lives, in whichever process.
///
/// The claim is the UDP port of the same number, which nothing here uses; the system lets go of it
/// when the process ends, however it ends.
pub fn free_port() -> u16 {
    static CLAIMS: Mutex<Vec<UdpSocket>> = Mutex::new(Vec::new());
    let start = (RandomState::new().hash_one(()) % u64::from(COUNT)) as u16;
    for n in 0..COUNT {
        let port = FIRST + (start + n) % COUNT;
        let place = (Ipv4Addr::LOCALHOST, port);
        let Ok(claim) = UdpSocket::bind(place) else {
            continue;
        };
        if TcpListener::bind(place).is_ok() {
            let mut claims = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
            claims.push(claim);
            return port;
        }
    }
    panic!("no free port among {COUNT}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn no_two_servers_are_told_the_same_port() {
        let askers: Vec<_> = (0..8)
            .map(|_| std::thread::spawn(|| (0..100).map(|_| free_port()).collect::<Vec<_>>()))
            .collect();
        let ports: Vec<u16> = askers
            .into_iter()
            .flat_map(|asker| asker.join().unwrap())
            .collect();
        assert_eq!(ports.iter().collect::<HashSet<_>>().len(), 800);
        for port in ports {
            let place = (Ipv4Addr::LOCALHOST, port);
            // Other processes see that it is claimed, and the server can have it.
            assert!(UdpSocket::bind(place).is_err());
            assert!(TcpListener::bind(place).is_ok());
        }
    }
}
