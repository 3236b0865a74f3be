//! Where an address is from: the number of its autonomous system and its country, as files in MaxMind's format have them.
//!
//! A file is in memory whole, and nothing here reads one: a file that is mapped and then cut would end the process.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use maxminddb::{PathElement, Reader};
use serde::de::{Deserialize, Deserializer, Error, Visitor};

/// What a database is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginKind {
    /// The number of the autonomous system, and the name of who runs it.
    Asn,
    Country,
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AddressOrigin {
    /// Never 0, which is no system.
    pub asn: Option<u32>,
    pub country: Option<CountryCode>,
}

/// Two capitals, of ISO 3166.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct CountryCode([u8; 2]);

/// The databases there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OriginDatabases {
    pub asn: Option<Arc<OriginDatabase>>,
    pub country: Option<Arc<OriginDatabase>>,
}

/// One file.
#[derive(Debug)]
pub struct OriginDatabase {
    reader: Reader<Bytes>,
    /// What is looked up in a record.
    field: &'static FieldPath,
    length: usize,
}

/// Why a file is no such database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OriginError {
    /// It is not in that format, or its end is missing.
    Format(String),
    /// It is, and something in it is wrong.
    Damaged(String),
    /// It says something else of addresses; `has_other`: what a database of the other kind says.
    NoField { database_type: String, has_other: bool },
}

type FieldPath = [PathElement<'static>];

/// The fields of GeoLite2, GeoIP2 and DB-IP, then those of IPinfo.
static ASN_FIELDS: [&FieldPath; 2] = [&[PathElement::Key("autonomous_system_number")], &[PathElement::Key("asn")]];
static COUNTRY_FIELDS: [&FieldPath; 3] = [
    &[PathElement::Key("country"), PathElement::Key("iso_code")],
    &[PathElement::Key("country_code")],
    &[PathElement::Key("country")],
];
static ORGANIZATION_FIELDS: [&FieldPath; 3] = [
    &[PathElement::Key("autonomous_system_organization")],
    &[PathElement::Key("as_name")],
    &[PathElement::Key("name")],
];

/// Records that are looked at for a known field. A database may have some without it.
const MAX_SEARCHED: usize = 100_000;

impl OriginDatabase {
    /// Takes the content of a file, and looks at all of it: some 10 to 100 ms for each MB.
    pub fn new(content: Bytes, kind: OriginKind) -> Result<Self, OriginError> {
        let length = content.len();
        let reader = Reader::from_source(content).map_err(|error| OriginError::Format(error.to_string()))?;
        reader.verify().map_err(|error| OriginError::Damaged(error.to_string()))?;
        match field(&reader, kind) {
            Some(field) => Ok(Self { reader, field, length }),
            None => {
                let other = if kind == OriginKind::Asn { OriginKind::Country } else { OriginKind::Asn };
                let database_type = reader.metadata().database_type.clone();
                Err(OriginError::NoField { database_type, has_other: field(&reader, other).is_some() })
            }
        }
    }

    /// What its maker calls it.
    pub fn database_type(&self) -> &str {
        &self.reader.metadata().database_type
    }

    /// When it was made, in seconds since the Unix epoch.
    pub fn built(&self) -> u64 {
        self.reader.metadata().build_epoch
    }

    /// Bytes of the file.
    pub fn size(&self) -> usize {
        self.length
    }

    fn find<'d, T: Deserialize<'d>>(&'d self, address: IpAddr, field: &FieldPath) -> Option<T> {
        self.reader.lookup(address).ok()?.decode_path(field).ok()?
    }
}

/// Where records have it.
fn field(reader: &Reader<Bytes>, kind: OriginKind) -> Option<&'static FieldPath> {
    let records = reader.networks(Default::default()).ok()?.take(MAX_SEARCHED);
    records.flatten().find_map(|record| match kind {
        OriginKind::Asn => {
            let has = |field: &&&FieldPath| matches!(record.decode_path::<AsNumber>(field), Ok(Some(_)));
            ASN_FIELDS.iter().find(has).copied()
        }
        OriginKind::Country => {
            let has = |field: &&&FieldPath| matches!(record.decode_path::<CountryCode>(field), Ok(Some(_)));
            COUNTRY_FIELDS.iter().find(has).copied()
        }
    })
}

/// The same file, as far as that can be told without comparing all of it.
impl PartialEq for OriginDatabase {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && self.reader.metadata() == other.reader.metadata()
    }
}

impl Eq for OriginDatabase {}

impl OriginDatabases {
    pub fn is_empty(&self) -> bool {
        self.asn.is_none() && self.country.is_none()
    }

    /// What they know of an address. IPv4 in IPv6 is not unfolded here.
    pub fn lookup(&self, address: IpAddr) -> AddressOrigin {
        let asn = self.asn.as_ref().and_then(|database| database.find::<AsNumber>(address, database.field));
        let country = self.country.as_ref().and_then(|database| database.find(address, database.field));
        AddressOrigin { asn: asn.map(|number| number.0).filter(|number| *number != 0), country }
    }

    /// Who runs the network of an address.
    pub fn organization(&self, address: IpAddr) -> Option<&str> {
        let database = self.asn.as_ref()?;
        ORGANIZATION_FIELDS.iter().find_map(|field| database.find::<&str>(address, field))
    }
}

impl CountryCode {
    /// Of two letters in whatever case.
    pub fn new(text: &str) -> Option<Self> {
        let letters: [u8; 2] = text.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_alphabetic).then(|| Self(letters.map(|letter| letter.to_ascii_uppercase())))
    }

    pub fn as_str(&self) -> &str {
        str::from_utf8(&self.0).expect("they are ASCII")
    }
}

impl fmt::Debug for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for CountryCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The number of an autonomous system as people write it: `64500` or `AS64500`.
pub fn as_number(text: &str) -> Option<u32> {
    let is_word = text.get(..2).is_some_and(|word| word.eq_ignore_ascii_case("as"));
    let digits = if is_word { &text[2..] } else { text };
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())?
}

struct AsNumber(u32);

impl<'de> Deserialize<'de> for AsNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsNumberVisitor;
        impl Visitor<'_> for AsNumberVisitor {
            type Value = AsNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the number of an autonomous system")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<AsNumber, E> {
                number.try_into().map(AsNumber).map_err(E::custom)
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<AsNumber, E> {
                as_number(text).map(AsNumber).ok_or_else(|| E::custom("no number"))
            }
        }
        deserializer.deserialize_any(AsNumberVisitor)
    }
}

impl<'de> Deserialize<'de> for CountryCode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        Self::new(text).ok_or_else(|| D::Error::custom("no code of a country"))
    }
}
