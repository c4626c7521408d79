//! Where operator and consumer serve their health: on all addresses of both IP families, or of the one that there is.
//!
//! The kubelet probes a pod at its address of the cluster's first family. `[::]` takes IPv4 and IPv6;
//! where a kernel has no IPv6 it cannot be bound, and `0.0.0.0` stands in.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

/// All addresses of both families.
pub const fn everywhere(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), port)
}

/// Binds `address` by `bind`; where that is `[::]` and the machine has no IPv6, `0.0.0.0`.
///
/// # Errors
/// As `bind`: a port in use is an error at once, and an address that somebody named is not replaced.
pub async fn bind<L, F>(address: SocketAddr, bind: impl Fn(SocketAddr) -> F) -> io::Result<L>
where
    F: Future<Output = io::Result<L>>,
{
    match bind(address).await {
        Err(error)
            if address.ip() == Ipv6Addr::UNSPECIFIED
                && error.kind() != io::ErrorKind::AddrInUse =>
        {
            bind(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port())).await
        }
        answer => answer,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        future::ready,
        pin::pin,
        task::{Context, Poll, Waker},
    };

    use super::*;

    /// What is bound where IPv6 gives this error.
    fn bound(address: &str, error: io::ErrorKind) -> Result<String, io::ErrorKind> {
        let answer = bind(address.parse().unwrap(), |address: SocketAddr| {
            ready(if address.is_ipv6() { Err(error.into()) } else { Ok(address.to_string()) })
        });
        match pin!(answer).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => answer.map_err(|error| error.kind()),
            Poll::Pending => unreachable!("nothing is waited for"),
        }
    }

    #[test]
    fn without_ipv6_it_listens_on_ipv4() {
        // EAFNOSUPPORT has no kind of its own.
        for error in [io::ErrorKind::Other, io::ErrorKind::AddrNotAvailable] {
            assert_eq!(bound("[::]:8080", error).as_deref(), Ok("0.0.0.0:8080"), "{error}");
        }
    }

    #[test]
    fn a_port_in_use_and_a_named_address_are_errors() {
        use io::ErrorKind::{AddrInUse, AddrNotAvailable};
        assert_eq!(bound("[::]:8080", AddrInUse), Err(AddrInUse));
        assert_eq!(bound("[::1]:8080", AddrNotAvailable), Err(AddrNotAvailable));
    }
}
