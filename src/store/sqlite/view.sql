-- For people: what is counted now. Not a part of the schema's version: whoever opens the file makes it anew if it differs.
CREATE VIEW counts AS
SELECT
    key,
    kind,
    CASE kind
        WHEN 'sliding' THEN (
            SELECT coalesce(sum(hit.count), 0) FROM hit
            WHERE hit.key = known.key AND hit.ends > 1000 * strftime('%s', 'now')
        )
        ELSE count
    END AS count,
    datetime(end, 'unixepoch', 'localtime') AS ends,
    end - strftime('%s', 'now') AS seconds_left
FROM (
    SELECT
        key,
        count,
        kind,
        -- Counters of the calendar are kept ten seconds longer, for a host whose clock is late.
        ends / 1000 - CASE kind WHEN 'calendar' THEN 10 ELSE 0 END AS end
    FROM (
        SELECT
            key,
            count,
            ends,
            CASE
                WHEN key LIKE '%!hits' THEN 'sliding'
                WHEN rtrim(key, '0123456789abcdef') LIKE '%!w' THEN 'calendar'
                WHEN key LIKE '%!ban' THEN 'ban'
                WHEN key LIKE '%!bans' THEN 'bans'
                WHEN key LIKE '%!violations' THEN 'violations'
                -- That something was counted once, or that a window has its new length.
                WHEN rtrim(key, '0123456789abcdef') LIKE '%!m' OR key LIKE '%!=%' THEN 'mark'
                ELSE 'window'
            END AS kind
        FROM counter
    )
) AS known
WHERE end > CAST(strftime('%s', 'now') AS INTEGER)
