//! One line of a list file: its netblocks, in every form in which lists are published, and what stands beside them.
//!
//! A line is understood as a whole or is an error: half of a range or of a table's row would be another client.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv4Subnets, Ipv6Subnets};
use smallvec::{SmallVec, smallvec};

use super::list_table::{Columns, NETBLOCK};
use super::name;
use super::netblock::{self, WRITE};
use super::source::Span;
use crate::config::diagnostics::quoted;
use crate::net::netblock::canonical;
use crate::policy::name_patterns::NamePattern;

/// Members of JSON objects that hold a reason.
const REASON: [&str; 5] = ["reason", "comment", "description", "sblid", "name"];

/// The content of a line.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct ListLine {
    /// Empty: the line is a comment or a heading.
    pub netblocks: SmallVec<[FoundNetblock; 1]>,
    pub name: Option<(NamePattern, Span)>,
    /// An action of access(5), or further columns.
    pub beside: String,
    /// Behind `#`, `;` or `//`.
    pub comment: String,
}

/// Nearly always one.
type FoundNetblocks = SmallVec<[FoundNetblock; 1]>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FoundNetblock {
    pub net: IpNet,
    /// Its place in the line.
    pub span: Span,
    /// Whether host bits were set.
    pub host_bits: bool,
}

/// Why a line cannot be understood.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct WrongLine {
    pub span: Span,
    pub problem: String,
    pub remedy: String,
}

/// Reads the lines of one file, one after the other.
#[derive(Debug, Default)]
pub(super) struct LineReader {
    /// The columns of a table, after its heading.
    columns: Option<Columns>,
    /// A line had an entry, so no heading follows.
    has_begun: bool,
    /// The file is postgrey's whitelist of clients: a name means all below it too, and the beginning of an address its
    /// network.
    is_postgrey: bool,
}

impl LineReader {
    /// Reads a line without blanks around it.
    pub fn read(&mut self, line: &str) -> Result<ListLine, WrongLine> {
        if line.is_empty() || line.starts_with(['#', ';']) || line.starts_with("//") {
            // The first line of the file that postgrey ships.
            self.is_postgrey |= !self.has_begun && line.starts_with("# postgrey whitelist");
            return Ok(ListLine::default());
        }
        if line.starts_with('{') {
            return object(line);
        }
        if let Some(columns) = &self.columns {
            return columns.row(line);
        }
        if !self.has_begun {
            self.columns = Columns::of(line);
            if self.columns.is_some() {
                return Ok(ListLine::default());
            }
        }
        self.has_begun = true;
        match self.name(line) {
            Some(read) => read,
            None => words(line),
        }
    }

    /// A line that begins with a name; `None`: it does not.
    fn name(&self, line: &str) -> Option<Result<ListLine, WrongLine>> {
        let text = match line.starts_with('/') {
            // Anything but a blank may stand in a regular expression.
            true => line.split_whitespace().next().unwrap_or(line),
            false => Word::first(line).text,
        };
        // Most lines have an address.
        if netblock::parse(text).is_ok() {
            return None;
        }
        if self.is_postgrey
            && let Some(net) = netblock::beginning(text)
        {
            let netblocks = smallvec![FoundNetblock { net, span: 0..text.len(), host_bits: false }];
            return Some(Ok(ListLine { netblocks, ..ListLine::default() }));
        }
        let name = match name::parse(text)? {
            Ok(NamePattern::Host(name)) if self.is_postgrey => NamePattern::Domain(name),
            Ok(name) => name,
            Err((problem, remedy)) => return Some(Err(wrong(line, text, problem, remedy))),
        };
        let rest = line[line.find(text).unwrap_or(0) + text.len()..].trim_start_matches(['"', ',']).trim_start();
        let (beside, comment) = beside(rest);
        let second = Word::first(beside).text;
        if matches!(name::parse(second), Some(Ok(_))) || netblock::parse(second).is_ok() {
            let problem = "two entries on a line".to_owned();
            return Some(Err(wrong_line(line, problem, "write each in a line of its own".to_owned())));
        }
        let (beside, comment) = (beside.trim().to_owned(), comment.trim().to_owned());
        let span = line.find(text).unwrap_or(0)..line.find(text).unwrap_or(0) + text.len();
        Some(Ok(ListLine { netblocks: SmallVec::new(), name: Some((name, span)), beside, comment }))
    }
}

/// The text beside an entry, and the comment.
fn beside(rest: &str) -> (&str, &str) {
    match rest.strip_prefix(';').or_else(|| rest.strip_prefix("//")) {
        Some(comment) => ("", comment),
        None => rest.split_once('#').unwrap_or((rest, "")),
    }
}

/// Netblocks at the beginning of a line, and what follows them.
fn words(line: &str) -> Result<ListLine, WrongLine> {
    let mut found: FoundNetblocks = SmallVec::new();
    // Addresses without a length: two of them may be the ends of a range.
    let mut plain = 0;
    let mut at = 0;
    loop {
        let rest = &line[at..];
        let word = Word::first(rest);
        let Some((block, end)) = netblock_at(line, at, &word)? else {
            break;
        };
        plain += usize::from(block.len() == 1 && is_address(word.text));
        found.extend(block);
        let after = line[end..].trim_start_matches([' ', '\t', ',', '"']);
        at = line.len() - after.len();
        if after.is_empty() || at == end {
            break;
        }
    }
    if found.is_empty() {
        let word = Word::first(line);
        let (problem, remedy) = netblock::parse(word.text).err().unwrap_or_default();
        return Err(wrong(line, word.text, problem, remedy));
    }
    let mut rest = line[at..].trim_start();
    if let [first, second] = &found[..]
        && plain == 2
        && first.net < second.net
        && (first.net.addr().is_ipv4() == second.net.addr().is_ipv4())
    {
        // A table of first and last addresses may have the length as its next column.
        let number = Word::first(rest).text;
        let whole = number.parse().ok().and_then(|length| IpNet::new(first.net.addr(), length).ok());
        let Some(net) = whole.filter(|net| (net.network(), net.broadcast()) == (first.net.addr(), second.net.addr()))
        else {
            let problem = "two addresses: are they two clients or the ends of a range?";
            let (first, second) = (first.net.addr(), second.net.addr());
            let remedy = format!("write `{first} - {second}` for a range, and each client in a line of its own");
            return Err(wrong_line(line, problem.to_owned(), remedy));
        };
        let span = first.span.start..second.span.end;
        found = smallvec![FoundNetblock { net: canonical(net), span, host_bits: false }];
        rest = rest[number.len()..].trim_start();
    }
    let (beside, comment) = beside(rest);
    let broken = Word::first(beside).text;
    if looks_like_address(broken) {
        return Err(wrong(line, broken, "not an address or netblock".to_owned(), WRITE.to_owned()));
    }
    let beside = beside.trim().trim_matches(['"', ',']).replace('"', "");
    Ok(ListLine { netblocks: found, name: None, beside, comment: comment.trim().to_owned() })
}

/// A word of a line.
struct Word<'l> {
    text: &'l str,
    /// Bytes of the line up to its end, quotes included.
    length: usize,
}

impl<'l> Word<'l> {
    fn first(text: &'l str) -> Self {
        if let Some(quoted) = text.strip_prefix('"')
            && let Some((inner, _)) = quoted.split_once('"')
        {
            return Self { text: inner, length: inner.len() + 2 };
        }
        let ends = |c: char| c.is_whitespace() || matches!(c, '#' | ';' | ',' | '"');
        let mut end = text.find(ends).unwrap_or(text.len());
        // A comment may follow without a blank.
        if let Some(comment) = text[..end].find("//") {
            end = comment;
        }
        Self { text: &text[..end], length: end }
    }
}

/// The netblocks that a word stands for, with those behind it that belong to it, and where they end; `None`: it is
/// something else.
fn netblock_at(line: &str, at: usize, word: &Word) -> Result<Option<(FoundNetblocks, usize)>, WrongLine> {
    let text = word.text;
    let end = at + word.length;
    let span = |end: usize| at + (word.length - text.len()) / 2..end;
    if let Some((first, last)) = text.split_once('-')
        && let Ok(first) = first.parse::<IpAddr>()
    {
        return range(line, first, last, span(end)).map(|blocks| Some((blocks, end)));
    }
    let found = |net, end, host_bits| smallvec![FoundNetblock { net: canonical(net), span: span(end), host_bits }];
    if let Some((address, mask)) = text.split_once('/')
        && let (Ok(address), Ok(mask)) = (address.parse::<IpAddr>(), mask.parse::<IpAddr>())
        && let Ok(net) = IpNet::with_netmask(address, mask)
    {
        return Ok(Some((found(net, span(end).start + text.len(), net.addr() != net.network()), end)));
    }
    let Ok(block) = netblock::parse(text) else {
        // A beginning of an address and the like have remedies of their own.
        let is_first = at == 0;
        let (problem, remedy) = netblock::parse(text).err().unwrap_or_default();
        let remedy = if remedy == WRITE { name::WRITE.to_owned() } else { remedy };
        return if is_first { Err(wrong(line, text, problem, remedy)) } else { Ok(None) };
    };
    let Ok(address) = text.parse::<IpAddr>() else {
        return Ok(Some((found(block.net, span(end).start + text.len(), block.host_bits), end)));
    };
    let rest = &line[end..];
    let behind = rest.trim_start();
    let start = line.len() - behind.len();
    if let Some(length) = behind.strip_prefix('/').filter(|after| !after.starts_with('/')) {
        let length = length.trim_start();
        let word = Word::first(length);
        let end = line.len() - length.len() + word.length;
        return match netblock::parse(&format!("{text}/{}", word.text)) {
            Ok(block) => Ok(Some((found(block.net, end, block.host_bits), end))),
            Err((problem, remedy)) => Err(wrong(line, &line[at..end], problem, remedy)),
        };
    }
    if let Some(last) = behind.strip_prefix('-').or_else(|| behind.strip_prefix('\u{2013}')) {
        let last = last.trim_start();
        let word = Word::first(last);
        // Otherwise the dash begins a comment.
        if word.text.starts_with(|c: char| c.is_ascii_digit()) || word.text.contains(':') && is_address(word.text) {
            let end = line.len() - last.len() + word.length;
            return range(line, address, word.text, span(end)).map(|blocks| Some((blocks, end)));
        }
    }
    if let (IpAddr::V4(address), Ok(IpAddr::V4(mask))) = (address, Word::first(behind).text.parse()) {
        let end = start + Word::first(behind).length;
        // Routers write the mask the other way round.
        let ones =
            [mask, std::net::Ipv4Addr::from_bits(!mask.to_bits())].map(|mask| Ipv4Net::with_netmask(address, mask));
        let is_mask = mask.octets()[0] == 255 || mask.octets()[0] == 0;
        match ones {
            [Ok(net), _] | [_, Ok(net)] if is_mask && !mask.is_unspecified() => {
                return Ok(Some((found(IpNet::V4(net), end, net.addr() != net.network()), end)));
            }
            _ if is_mask => {
                let problem = format!("{} is not a mask", quoted(&mask.to_string()));
                return Err(wrong(line, &line[start..end], problem, WRITE.to_owned()));
            }
            _ => {}
        }
    }
    Ok(Some((found(block.net, span(end).start + text.len(), false), end)))
}

/// The netblocks of a range.
pub(super) fn range(line: &str, first: IpAddr, last: &str, span: Span) -> Result<FoundNetblocks, WrongLine> {
    let nets: Option<Vec<IpNet>> = match (first.to_canonical(), last.parse::<IpAddr>().map(|last| last.to_canonical()))
    {
        (IpAddr::V4(first), Ok(IpAddr::V4(last))) if first <= last => {
            Some(Ipv4Subnets::new(first, last, 0).map(IpNet::V4).collect())
        }
        (IpAddr::V6(first), Ok(IpAddr::V6(last))) if first <= last => {
            Some(Ipv6Subnets::new(first, last, 0).map(IpNet::V6).collect())
        }
        _ => None,
    };
    let Some(nets) = nets else {
        let problem = "this range has no end, or ends before it begins".to_owned();
        let remedy = "write two addresses, as in 192.0.2.1 - 192.0.2.9".to_owned();
        return Err(WrongLine { problem: format!("{}: {problem}", quoted(&line[span.clone()])), span, remedy });
    };
    Ok(nets.into_iter().map(|net| FoundNetblock { net, span: span.clone(), host_bits: false }).collect())
}

/// A line of JSON.
fn object(line: &str) -> Result<ListLine, WrongLine> {
    let remedy = "write one JSON object a line, with the netblock as its `cidr`".to_owned();
    let object = match serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(line) {
        Ok(object) => object,
        Err(error) => return Err(wrong_line(line, format!("not a JSON object: {error}"), remedy)),
    };
    let text = |names: &[&str]| {
        let is_one = |name: &str| names.iter().any(|known| name.eq_ignore_ascii_case(known));
        object.iter().find(|(name, value)| is_one(name) && value.is_string()).and_then(|(_, value)| value.as_str())
    };
    let Some(netblock) = text(&NETBLOCK) else {
        return match object.get("type").and_then(|value| value.as_str()) {
            Some("metadata") => Ok(ListLine::default()),
            _ => Err(wrong_line(line, "this JSON object has no netblock".to_owned(), remedy)),
        };
    };
    let found = whole(netblock).map_err(|(problem, remedy)| wrong(line, netblock, problem, remedy))?;
    let at = line.find(netblock).unwrap_or(0);
    let netblocks = found.into_iter().map(|found| FoundNetblock { span: at..at + netblock.len(), ..found }).collect();
    Ok(ListLine { netblocks, comment: text(&REASON).unwrap_or_default().to_owned(), ..ListLine::default() })
}

/// A text that is a netblock or a range, and nothing else.
pub(super) fn whole(text: &str) -> Result<FoundNetblocks, (String, String)> {
    match words(text) {
        Ok(ListLine { netblocks, beside, comment, .. }) if beside.is_empty() && comment.is_empty() => Ok(netblocks),
        Ok(_) => Err(("not an address or netblock".to_owned(), WRITE.to_owned())),
        Err(wrong) => Err((wrong.problem, wrong.remedy)),
    }
}

fn is_address(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

/// Whether a word is meant to be an IPv4 address or netblock.
fn looks_like_address(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit() || matches!(byte, b'.' | b'/'))
        && text.bytes().filter(|byte| *byte == b'.').count() == 3
}

pub(super) fn wrong(line: &str, part: &str, problem: String, remedy: String) -> WrongLine {
    // Decoded text need not stand in the line.
    let start = line.find(part).unwrap_or(0);
    let problem = if problem.contains('`') { problem } else { format!("{}: {problem}", quoted(part)) };
    WrongLine { span: start..start + part.len().min(line.len()), problem, remedy }
}

pub(super) fn wrong_line(line: &str, problem: String, remedy: String) -> WrongLine {
    WrongLine { span: 0..line.len(), problem, remedy }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Vec<(String, String)>, String> {
        let mut reader = LineReader::default();
        let mut all = Vec::new();
        for line in lines {
            let read = reader.read(line.trim()).map_err(|wrong| format!("{:?} {}", wrong.span, wrong.problem))?;
            let ListLine { netblocks, name, beside, comment } = read;
            let reason = if beside.is_empty() { comment } else { beside };
            all.extend(name.map(|(name, _)| (name.to_string(), reason.clone())));
            for FoundNetblock { net, span, .. } in netblocks {
                assert!(line.trim().get(span.clone()).is_some(), "{line}: {span:?}");
                all.push((net.to_string(), reason.clone()));
            }
        }
        Ok(all)
    }

    fn nets(line: &str) -> String {
        match read(&[line]) {
            Ok(found) => found.into_iter().map(|(net, _)| net).collect::<Vec<_>>().join(" "),
            Err(wrong) => wrong,
        }
    }

    #[test]
    fn netblocks_come_in_many_forms() {
        let forms = [
            ("192.0.2.1", "192.0.2.1/32"),
            ("192.0.2.0/24 REJECT go away", "192.0.2.0/24"),
            ("192.0.2.0/24;SBL1", "192.0.2.0/24"),
            ("192.0.2.0/24//x", "192.0.2.0/24"),
            ("198.51.100.0 /24", "198.51.100.0/24"),
            ("198.51.100.0 / 24 x", "198.51.100.0/24"),
            ("192.0.2.0 255.255.255.0", "192.0.2.0/24"),
            ("192.0.2.0 0.0.0.255 x", "192.0.2.0/24"),
            ("192.0.2.1 255.255.255.255", "192.0.2.1/32"),
            ("192.0.2.0/255.255.255.0 x", "192.0.2.0/24"),
            ("192.0.2.0/2x", "0..12 `192.0.2.0/2x`: the prefix length is not a number"),
            ("192.0.2.1 - 192.0.2.2", "192.0.2.1/32 192.0.2.2/32"),
            ("192.0.2.0-192.0.2.255 x", "192.0.2.0/24"),
            ("2001:db8::-2001:db8::ffff", "2001:db8::/112"),
            ("2001:db8:: - 2001:db8::ffff", "2001:db8::/112"),
            ("192.0.2.1 - a spammer", "192.0.2.1/32"),
            ("192.0.2.0/24 198.51.100.0/24", "192.0.2.0/24 198.51.100.0/24"),
            ("192.0.2.9, 192.0.2.3, 203.0.113.0/24 # three", "192.0.2.9/32 192.0.2.3/32 203.0.113.0/24"),
            ("\"192.0.2.0/24\",\"spam\",3", "192.0.2.0/24"),
            ("192.0.2.7 2026-01-02 12:00:01 ssh", "192.0.2.7/32"),
            ("77.72.82.0\t77.72.82.255\t24\t9424\tNETUP-AS ,\tRU", "77.72.82.0/24"),
            ("{\"cidr\":\"192.0.2.0/24\",\"sblid\":\"SBL1\",\"rir\":\"arin\"}", "192.0.2.0/24"),
            ("{\"type\":\"metadata\",\"size\":2}", ""),
            ("// nothing", ""),
            ("; Spamhaus DROP List", ""),
        ];
        for (line, expected) in forms {
            assert_eq!(nets(line), expected, "{line}");
        }
    }

    #[test]
    fn names_stand_beside_netblocks_and_postgreys_file_means_what_it_means_there() {
        let list = ["mail.example.com REJECT", ".example.org # all", "/^mx[0-9;#]+\\.example\\.net$/ x", "192.0.2.1"];
        let found = read(&list).unwrap();
        let expected = [
            ("mail.example.com", "REJECT"),
            (".example.org", "all"),
            ("/^mx[0-9;#]+\\.example\\.net$/", "x"),
            ("192.0.2.1/32", ""),
        ];
        assert_eq!(found, expected.map(|(name, reason)| (name.to_owned(), reason.to_owned())));
        let postgrey = [
            "# postgrey whitelist for mail client hostnames",
            "# --------------------------------------------",
            "southwest.com",
            "/^ms-smtp.*\\.rr\\.com$/",
            "66.216.126.174",
            "195.235.39",
        ];
        let found: Vec<_> = read(&postgrey).unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(found, [".southwest.com", "/^ms-smtp.*\\.rr\\.com$/", "66.216.126.174/32", "195.235.39.0/24"]);
        for line in ["a.example.com b.example.com", "a.example.com, 192.0.2.1", "/(/", "/x", "a.example.com/24"] {
            assert!(read(&[line]).is_err(), "{line}");
        }
    }

    #[test]
    fn no_half_of_a_line_is_taken() {
        for line in [
            "192.0.2.0 192.0.2.255",
            "192.0.2.0\t192.0.2.255\t25\tx",
            "192.0.2.1 - 192.0.2",
            "192.0.2.9 - 192.0.2.1",
            "192.0.2.1-",
            "192.0.2.0 255.0.255.0",
            "192.0.2.1 0.0.0.0",
            "192.0.2.0 /33",
            "192.0.2.1 198.51.100.256",
            "192.0.2.0/24 198.51.100.0/240",
            "10.0.0",
            "{\"asn\":64500}",
            "{\"cidr\":\"192.0.2.0/24 and more\"}",
            "{\"cidr\":\"192.0.2.0/24\"",
            "[{\"cidr\":\"192.0.2.0/24\"}]",
            "3221225985,3221225999",
        ] {
            assert!(read(&[line]).is_err(), "{line}: {}", nets(line));
        }
    }

    #[test]
    fn a_table_says_in_its_heading_where_the_netblock_is() {
        let dshield = "Start\tEnd\tNetmask\tAttacks\tName\tCountry\temail";
        let found =
            read(&["# x", dshield, "77.72.82.0\t77.72.82.254\t24\t9424\tNETUP-AS ,\tRU\ta@example.ru"]).unwrap();
        assert_eq!(found.len(), 8, "{found:?}");
        assert_eq!(found[0], ("77.72.82.0/25".to_owned(), "24 9424 NETUP-AS , RU a@example.ru".to_owned()));
        let heading = "\"first_seen_utc\",\"dst_ip\",\"dst_port\",\"malware\"";
        let row = "\"2026-01-01 00:00:00\",\"192.0.2.7\",\"443\",\"Emotet\"";
        assert_eq!(read(&[heading, row]).unwrap()[0], ("192.0.2.7/32".into(), "2026-01-01 00:00:00 443 Emotet".into()));
        assert!(read(&[heading, "\"2026-01-01 00:00:00\""]).is_err());
        assert!(read(&[heading, "\"2026-01-01\",\"x\",\"443\""]).is_err());
        // Without a heading nothing says which column it is; a heading is the first line.
        assert!(read(&[row]).is_err());
        assert!(read(&["192.0.2.1", heading]).is_err());
        assert_eq!(read(&["cidr", "192.0.2.0/24"]).unwrap().len(), 1);
    }
}
