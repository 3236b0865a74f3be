use super::*;

const DEFAULT: Mask = Mask { ipv4_prefix_length: 32, ipv6_prefix_length: 64 };

fn table(mask: Mask, lengths: &[u32], hits: &[(i64, &str)]) -> ClientTable {
    let mut table = ClientTable::new(mask, lengths, MAX_CLIENTS);
    for (seconds, client) in hits {
        let moment = Moment::new(1_700_000_000_000 + seconds * 1000, true);
        table.count(moment, 0, client.parse().unwrap(), b"", |_, _| {});
    }
    table
}

#[test]
fn a_window_begins_with_its_first_session_and_is_never_extended() {
    let hits = [(0, "198.51.100.1"), (59, "198.51.100.1"), (60, "198.51.100.1"), (61, "198.51.100.1")];
    let table = table(DEFAULT, &[60, 600], &hits);
    assert_eq!(table.numbers(0), [0, 2, 2]);
    assert_eq!(table.numbers(1), [0, 1, 1, 1, 1]);
    assert_eq!((table.refused_sessions(0, 1), table.refused_sessions(1, 1)), (2, 3));
    assert_eq!((table.refused_clients(0, 1), table.refused_clients(0, 2)), ((1, 0), (0, 0)));
}

#[test]
fn addresses_of_one_network_are_one_client_under_its_mask() {
    let hits = [(0, "2001:db8::1"), (1, "2001:db8::2"), (2, "2001:db8:0:1::1")];
    assert_eq!(table(DEFAULT, &[60], &hits).clients(), 2);
    assert_eq!(table(Mask::NONE, &[60], &hits).clients(), 3);
}

#[test]
fn who_delivered_mail_is_told_from_the_rest() {
    let mut table = table(DEFAULT, &[60], &[(0, "198.51.100.1"), (1, "198.51.100.1"), (2, "198.51.100.2")]);
    table.deliver("198.51.100.1".parse().unwrap(), 0);
    table.deliver("198.51.100.77".parse().unwrap(), 0);
    assert_eq!(table.refused_clients(0, 0), (2, 1));
    assert_eq!(table.refused_clients(0, 1), (1, 1));
}

#[test]
fn memory_is_bounded_and_no_busy_or_delivering_client_is_forgotten() {
    let mut table = ClientTable::new(DEFAULT, &[60], 100);
    let client = |number: u32| IpAddr::from(number.to_be_bytes());
    for number in 0..20_u32 {
        table.count(Moment::new(0, true), 0, client(1), b"busy", |_, _| {});
        if number == 0 {
            table.count(Moment::new(0, true), 0, client(2), b"mail", |_, _| {});
            table.deliver(client(2), 0);
        }
    }
    for number in 10..5_000 {
        table.count(Moment::new(i64::from(number), true), 0, client(number), b"", |_, _| {});
        assert!(table.clients.len() <= 100);
    }
    assert_eq!(table.clients(), 4_992);
    assert_eq!(table.refused_clients(0, 19), (1, 0));
    assert_eq!(table.refused_clients(0, 0), (4_992, 1));
    assert_eq!(table.refused_sessions(0, 1), 19);
    let kept: Vec<_> = table.clients.iter().map(|client| client.name.to_vec()).collect();
    assert!(kept.contains(&b"busy".to_vec()) && kept.contains(&b"mail".to_vec()));
}
