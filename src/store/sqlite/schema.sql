-- Version 1. Times are milliseconds since the Unix epoch, by the system clock: processes share them.

-- Counters by their keys, which are the same as in memcached.
CREATE TABLE counter (
    key   TEXT NOT NULL PRIMARY KEY,
    count INTEGER NOT NULL,
    ends  INTEGER NOT NULL
) WITHOUT ROWID;

-- What has expired is found without looking at the rest.
CREATE INDEX counter_ends ON counter (ends);

-- The hits of exact sliding windows, each until it leaves its window. The counter of the same key has their sum.
CREATE TABLE hit (
    key   TEXT NOT NULL,
    ends  INTEGER NOT NULL,
    count INTEGER NOT NULL,
    PRIMARY KEY (key, ends)
) WITHOUT ROWID;

CREATE INDEX hit_ends ON hit (ends);

CREATE TRIGGER hit_gone AFTER DELETE ON hit
BEGIN
    UPDATE counter SET count = count - old.count WHERE key = old.key;
END;

-- Values that processes share, such as what administrators said.
CREATE TABLE value (
    key     TEXT NOT NULL PRIMARY KEY,
    bytes   BLOB NOT NULL,
    version INTEGER NOT NULL,
    ends    INTEGER NOT NULL
) WITHOUT ROWID;
