//! The origin of a client, as answers have it.

use std::fmt;
use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::net::origin::AddressOrigin;
use crate::policy::Policy;

/// Autonomous system, country and organization of a client, from databases.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginStatus {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asn: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// The organization that runs its network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
}

impl OriginStatus {
    /// None where nothing is known, or nothing is asked.
    pub fn of(policy: &Policy, client: IpAddr) -> Option<Self> {
        let AddressOrigin { asn, country } = policy.origin(client);
        if asn.is_none() && country.is_none() {
            return None;
        }
        // A third party wrote this text, and terminals show it.
        let plain = |text: &str| text.chars().filter(|letter| !letter.is_control()).take(MAX_ORGANIZATION).collect();
        let organization = policy.origins().organization(client).map(plain);
        Some(Self { asn, country: country.map(|code| code.to_string()), organization })
    }
}

/// Letters of the name of an organization that are told.
const MAX_ORGANIZATION: usize = 60;

impl fmt::Display for OriginStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let asn = self.asn.map(|asn| format!("AS{asn}"));
        let network: Vec<_> = asn.into_iter().chain(self.organization.clone()).collect();
        let parts = [Some(network.join(" ")).filter(|network| !network.is_empty()), self.country.clone()];
        f.write_str(&parts.into_iter().flatten().collect::<Vec<_>>().join(", "))
    }
}
