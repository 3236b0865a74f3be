//! Stand-in.
use ipnet::IpNet;
use std::net::IpAddr;
/// Stand-in.
#[derive(Clone, Debug)]
pub struct Netblocks<T>(Vec<(IpNet, T)>);
impl<T> Netblocks<T> {
    /// x
    pub fn find(&self, a: IpAddr) -> Option<(&IpNet, &T)> {
        self.0.iter().filter(|(n, _)| n.contains(&a)).max_by_key(|(n, _)| n.prefix_len()).map(|(n, t)| (n, t))
    }
}
impl<T> FromIterator<(IpNet, T)> for Netblocks<T> {
    fn from_iter<I: IntoIterator<Item = (IpNet, T)>>(i: I) -> Self {
        Self(i.into_iter().collect())
    }
}
