//! Files in MaxMind's format, as the makers of databases write them: a tree of the bits of addresses, then records.

use std::collections::HashMap;

use ipnet::IpNet;

/// What a record, or the description of a file, is made of.
#[derive(Clone, Debug)]
pub enum Field {
    Text(String),
    /// Of the given number of bits: 16, 32 or 64.
    Number(u64, u8),
    Map(Vec<(&'static str, Field)>),
    List(Vec<Field>),
}

fn text(value: &str) -> Field {
    Field::Text(value.to_owned())
}

/// A record of GeoLite2-ASN and of DB-IP.
pub fn asn(number: u32, organization: &str) -> Field {
    Field::Map(vec![
        ("autonomous_system_number", Field::Number(number.into(), 32)),
        ("autonomous_system_organization", text(organization)),
    ])
}

/// A record of GeoLite2-Country and of DB-IP.
pub fn country(code: &str) -> Field {
    let names = || Field::Map(vec![("de", text("Land")), ("en", text("Country"))]);
    let continent = Field::Map(vec![("code", text("EU")), ("names", names())]);
    let country = Field::Map(vec![("names", names()), ("iso_code", text(code))]);
    Field::Map(vec![("continent", continent), ("country", country)])
}

/// A record of IPinfo's file of both.
pub fn ipinfo(number: &str, code: &str) -> Field {
    Field::Map(vec![
        ("as_name", text("Example Ltd")),
        ("asn", text(number)),
        ("country", text("Country")),
        ("country_code", text(code)),
    ])
}

/// A record of IPinfo's older file of countries.
pub fn ipinfo_country(code: &str) -> Field {
    Field::Map(vec![("country", text(code)), ("country_name", text("Country"))])
}

#[derive(Clone, Copy, Debug)]
enum Slot {
    Empty,
    Node(usize),
    Record(usize),
}

/// The content of a file of this type in which these networks have these records.
pub fn mmdb(database_type: &str, networks: &[(IpNet, Field)]) -> Vec<u8> {
    let mut networks: Vec<_> = networks.iter().collect();
    // So that a network within another one is cut out of it.
    networks.sort_by_key(|(net, _)| net.prefix_len());
    let (mut nodes, mut records, mut known) = (vec![[Slot::Empty; 2]], Vec::new(), HashMap::new());
    for (net, record) in networks {
        let mut encoded = Vec::new();
        encode(record, &mut encoded);
        let place = *known.entry(encoded).or_insert_with_key(|encoded| {
            records.extend_from_slice(encoded);
            records.len() - encoded.len()
        });
        insert(&mut nodes, *net, place);
    }
    let mut content = Vec::new();
    let word = |slot: Slot| match slot {
        Slot::Empty => nodes.len(),
        Slot::Node(node) => node,
        Slot::Record(place) => nodes.len() + 16 + place,
    };
    for node in &nodes {
        for slot in node {
            content.extend_from_slice(&(word(*slot) as u32).to_be_bytes());
        }
    }
    content.extend_from_slice(&[0; 16]);
    content.extend_from_slice(&records);
    content.extend_from_slice(b"\xab\xcd\xefMaxMind.com");
    let description = Field::Map(vec![("en", text("a database of a test"))]);
    let metadata = Field::Map(vec![
        ("binary_format_major_version", Field::Number(2, 16)),
        ("binary_format_minor_version", Field::Number(0, 16)),
        ("build_epoch", Field::Number(1_767_312_000, 64)),
        ("database_type", text(database_type)),
        ("description", description),
        ("ip_version", Field::Number(6, 16)),
        ("languages", Field::List(vec![text("en")])),
        ("node_count", Field::Number(nodes.len() as u64, 32)),
        ("record_size", Field::Number(32, 16)),
    ]);
    encode(&metadata, &mut content);
    content
}

/// IPv4 is at `::/96`.
fn insert(nodes: &mut Vec<[Slot; 2]>, net: IpNet, record: usize) {
    let (bits, length) = match net {
        IpNet::V4(net) => (u128::from(u32::from(net.network())), 96 + net.prefix_len()),
        IpNet::V6(net) => (u128::from(net.network()), net.prefix_len()),
    };
    let mut node = 0;
    for depth in 0..length {
        let side = (bits >> (127 - depth) & 1) as usize;
        if depth + 1 == length {
            nodes[node][side] = Slot::Record(record);
            return;
        }
        node = match nodes[node][side] {
            Slot::Node(next) => next,
            // What is there holds for both halves, until one is cut out of it.
            slot => {
                nodes.push([slot; 2]);
                nodes[node][side] = Slot::Node(nodes.len() - 1);
                nodes.len() - 1
            }
        };
    }
}

fn encode(field: &Field, output: &mut Vec<u8>) {
    match field {
        Field::Text(text) => {
            begin(2, text.len(), output);
            output.extend_from_slice(text.as_bytes());
        }
        Field::Number(number, bits) => {
            let bytes: Vec<u8> = number.to_be_bytes().into_iter().skip_while(|byte| *byte == 0).collect();
            begin(
                match bits {
                    16 => 5,
                    32 => 6,
                    _ => 9,
                },
                bytes.len(),
                output,
            );
            output.extend_from_slice(&bytes);
        }
        Field::Map(pairs) => {
            begin(7, pairs.len(), output);
            for (name, field) in pairs {
                encode(&text(name), output);
                encode(field, output);
            }
        }
        Field::List(fields) => {
            begin(11, fields.len(), output);
            fields.iter().for_each(|field| encode(field, output));
        }
    }
}

/// The byte with type and size, and those that follow it where they do not fit.
fn begin(kind: u8, size: usize, output: &mut Vec<u8>) {
    let (low, more) = match size {
        0..29 => (size as u8, None),
        _ => (29, Some(u8::try_from(size - 29).expect("no longer text is in a test"))),
    };
    match kind {
        8.. => output.extend_from_slice(&[low, kind - 7]),
        _ => output.push(kind << 5 | low),
    }
    output.extend(more);
}
