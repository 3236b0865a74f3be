//! Doors: the protocols over which requests come in. Each limit applies at one door; its bans hold at one or more.

use strum::{IntoStaticStr, VariantArray};

use super::attribute::Attribute;

/// The protocol over which a request comes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, IntoStaticStr, VariantArray)]
#[strum(const_into_str, serialize_all = "snake_case")]
pub enum Door {
    /// Postfix's policy protocol: SMTP clients.
    Smtp,
    /// Dovecot's auth policy protocol: logins.
    Login,
    /// The authorization requests of web servers.
    Web,
}

impl Door {
    /// How many there are.
    pub const COUNT: usize = 3;

    pub const ALL: [Self; Self::COUNT] = [Self::Smtp, Self::Login, Self::Web];

    /// The attribute of its requests that has the login.
    pub fn login(self) -> Attribute {
        match self {
            Self::Smtp => Attribute::SaslUsername,
            Self::Login => Attribute::Login,
            Self::Web => Attribute::User,
        }
    }
}

/// Some of the doors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DoorSet([bool; Door::COUNT]);

impl DoorSet {
    pub fn only(door: Door) -> Self {
        std::iter::once(door).collect()
    }

    pub fn contains(self, door: Door) -> bool {
        self.0[door as usize]
    }

    pub fn doors(self) -> impl Iterator<Item = Door> {
        Door::ALL.into_iter().filter(move |door| self.contains(*door))
    }

    /// Whether it is the SMTP door alone.
    pub fn is_smtp(self) -> bool {
        self == Self::only(Door::Smtp)
    }

    /// Their words, with commas.
    pub fn words(self) -> String {
        self.doors().map(|door| door.into_str()).collect::<Vec<_>>().join(",")
    }
}

impl FromIterator<Door> for DoorSet {
    fn from_iter<I: IntoIterator<Item = Door>>(doors: I) -> Self {
        let mut set = Self::default();
        doors.into_iter().for_each(|door| set.0[door as usize] = true);
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_and_doors_are_in_one_order() {
        for (place, door) in Door::ALL.into_iter().enumerate() {
            assert_eq!(door as usize, place);
        }
        assert_eq!([Door::Web, Door::Smtp].into_iter().collect::<DoorSet>().words(), "smtp,web");
    }
}
