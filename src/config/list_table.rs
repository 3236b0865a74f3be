//! Lists that are tables: a heading names the columns, in one or two of which each row has its netblock.

use super::list_line::{FoundNetblock, ListLine, WrongLine, range, whole, wrong, wrong_line};
use super::netblock::WRITE;

/// Columns of tables, and members of JSON objects, that hold an address, a netblock or a range.
pub(super) const NETBLOCK: [&str; 20] = [
    "cidr",
    "network",
    "netblock",
    "net",
    "subnet",
    "prefix",
    "ip_prefix",
    "ipv6_prefix",
    "ipv4prefix",
    "ipv6prefix",
    "range",
    "ip_range",
    "ip",
    "ip_address",
    "ipaddress",
    "address",
    "src_ip",
    "source_ip",
    "dst_ip",
    "host",
];

/// Columns that hold the first address of a range.
const FIRST: [&str; 7] = ["start", "start_ip", "start_address", "range_start", "first", "first_ip", "from"];

/// Columns that hold its last address.
const LAST: [&str; 7] = ["end", "end_ip", "end_address", "range_end", "last", "last_ip", "to"];

/// The columns of a table that hold the netblock of a row.
#[derive(Debug)]
pub(super) struct Columns {
    separator: char,
    place: AddressColumns,
}

#[derive(Clone, Copy, Debug)]
enum AddressColumns {
    One(usize),
    Range(usize, usize),
}

impl Columns {
    /// The columns of a heading; `None`: the line is not a heading.
    pub fn of(line: &str) -> Option<Self> {
        let separator = [',', '\t', ';'].into_iter().find(|separator| line.contains(*separator)).unwrap_or(',');
        let names: Vec<String> = fields(line, separator).map(|(name, _)| name.to_ascii_lowercase()).collect();
        let find = |words: &[&str]| {
            // In the order of the words, for a table may have both a netblock and a host.
            words.iter().find_map(|word| names.iter().position(|name| name == word))
        };
        let range = find(&FIRST).zip(find(&LAST)).map(|(first, last)| AddressColumns::Range(first, last));
        let place = range.or_else(|| find(&NETBLOCK).map(AddressColumns::One))?;
        Some(Self { separator, place })
    }

    pub fn row(&self, line: &str) -> Result<ListLine, WrongLine> {
        let fields: Vec<(&str, usize)> = fields(line, self.separator).collect();
        let (places, text) = match self.place {
            AddressColumns::One(one) => ([one, one], None),
            AddressColumns::Range(first, last) => ([first, last], Some(last)),
        };
        let Some(((first, at), (last, last_at))) = fields.get(places[0]).copied().zip(fields.get(places[1]).copied())
        else {
            let problem = "this row has fewer columns than the heading".to_owned();
            return Err(wrong_line(line, problem, "complete it, or remove it".to_owned()));
        };
        let netblocks = match text {
            Some(_) => {
                let span = at..last_at + last.len();
                let Ok(address) = first.parse() else {
                    return Err(wrong(line, first, "not an address".to_owned(), WRITE.to_owned()));
                };
                range(line, address, last, span.start.min(last_at)..span.end.max(at + first.len()))?
            }
            None => whole(first).map_err(|(problem, remedy)| wrong(line, first, problem, remedy))?,
        };
        let netblocks = netblocks.into_iter().map(|found| match text {
            Some(_) => found,
            None => FoundNetblock { span: at..at + first.len(), ..found },
        });
        let others = fields.iter().enumerate().filter(|(place, _)| !places.contains(place));
        let beside = others.map(|(_, (text, _))| *text).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
        Ok(ListLine { netblocks: netblocks.collect(), beside, ..ListLine::default() })
    }
}

/// The fields of a row with their places, without quotes.
fn fields(line: &str, separator: char) -> impl Iterator<Item = (&str, usize)> {
    let mut at = Some(0);
    std::iter::from_fn(move || {
        let start = at?;
        let rest = &line[start..];
        let lead = rest.len() - rest.trim_start_matches(' ').len();
        if let Some(quoted) = rest[lead..].strip_prefix('"')
            && let Some((inner, after)) = quoted.split_once('"')
        {
            at = after.find(separator).map(|end| line.len() - after.len() + end + separator.len_utf8());
            return Some((inner, start + lead + 1));
        }
        let end = rest.find(separator);
        at = end.map(|end| start + end + separator.len_utf8());
        let field = &rest[..end.unwrap_or(rest.len())];
        Some((field.trim(), start + field.len() - field.trim_start().len()))
    })
}
