-- Commands for counters, each on its own and all in one step.
-- KEYS: the counter of each command. ARGV: for each its name, and what it takes; times are in milliseconds.
-- Answers three values for each: 1, the count and the milliseconds left; 2: done; 3: not done; 0 and what is wrong.
local answers, place = {}, 0

local function take()
    place = place + 1
    return ARGV[place]
end

local function answer(code, one, other)
    answers[#answers + 1] = code
    answers[#answers + 1] = one or 0
    answers[#answers + 1] = other or 0
end

local function wrong(result)
    return type(result) == 'table' and result.err
end

local function done(result)
    if wrong(result) then
        return answer(0, result.err)
    end
    return answer((result == false or result == 0) and 3 or 2)
end

local NOT_A_NUMBER = 'ERR value is not an integer or out of range'

-- The number of a counter. Nil: there is none, or it is wrong, which is answered.
local function number(key)
    local value = redis.pcall('GET', key)
    if wrong(value) then
        answer(0, value.err)
    elseif not value then
        answer(3)
    elseif not tonumber(value) then
        answer(0, NOT_A_NUMBER)
    else
        return tonumber(value)
    end
end

-- An exact sliding window is a sorted set of 'END:COUNT' by the end in milliseconds. Below all of them is the
-- member 'sum', whose score is -1 - the sum of the counts.
local function count_of(entry)
    return tonumber(string.match(entry, ':(%d+)$')) or 0
end

local function now()
    local time = redis.call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function set_sum(key, sum)
    redis.call('ZADD', key, -1 - sum, 'sum')
end

-- Leaves out what ended, and what ends too late because the clock was set back. Returns the sum of the rest.
local function current(key, moment, expiry)
    local sum = redis.pcall('ZSCORE', key, 'sum')
    if wrong(sum) then
        answer(0, sum.err)
        return nil
    end
    sum = sum and -1 - tonumber(sum) or 0
    for _, range in ipairs({ { 0, moment }, { '(' .. (moment + expiry + 1000), '+inf' } }) do
        local gone = redis.call('ZRANGEBYSCORE', key, range[1], range[2])
        if #gone > 0 then
            for _, entry in ipairs(gone) do
                sum = sum - count_of(entry)
            end
            redis.call('ZREMRANGEBYSCORE', key, range[1], range[2])
            set_sum(key, sum)
        end
    end
    return sum
end

-- Milliseconds until so many of the oldest hits have left that one more fits in.
local function until_one_fits(key, kept, threshold, moment)
    local surplus, left, index = kept - threshold + 1, 0, 1
    while surplus > 0 do
        local oldest = redis.call('ZRANGE', key, index, index, 'WITHSCORES')
        if not oldest[1] then
            break
        end
        left = tonumber(oldest[2]) - moment
        surplus = surplus - count_of(oldest[1])
        index = index + 1
    end
    return left
end

local commands = {}

function commands.hit(key)
    local amount, expiry = take(), take()
    local count = redis.pcall('INCRBY', key, amount)
    if wrong(count) then
        return answer(0, count.err)
    end
    local left = redis.call('PTTL', key)
    if left < 0 then
        redis.call('PEXPIRE', key, expiry)
        left = tonumber(expiry)
    end
    answer(1, count, left)
end

function commands.read(key)
    local count = number(key)
    if count then
        answer(1, count, redis.call('PTTL', key))
    end
end

function commands.back(key)
    local amount = tonumber(take())
    local count = number(key)
    if count then
        if count > 0 then
            redis.call('DECRBY', key, math.min(amount, count))
        end
        answer(2)
    end
end

function commands.add(key)
    local count, expiry = take(), take()
    done(redis.pcall('SET', key, count, 'PX', expiry, 'NX'))
end

function commands.replace(key)
    local count, expiry = take(), take()
    done(redis.pcall('SET', key, count, 'PX', expiry, 'XX'))
end

function commands.touch(key)
    done(redis.pcall('PEXPIRE', key, take()))
end

function commands.delete(key)
    done(redis.pcall('DEL', key))
end

function commands.slide(key)
    local amount, expiry, threshold, keeps = tonumber(take()), tonumber(take()), tonumber(take()), take() == '1'
    local moment = now()
    local before = current(key, moment, expiry)
    if not before then
        return
    end
    local count = before + amount
    if amount == 0 then
        if before == 0 then
            return answer(3)
        end
        return answer(1, before, until_one_fits(key, before, threshold, moment))
    end
    if count > threshold and not keeps then
        return answer(1, count, until_one_fits(key, before, threshold, moment))
    end
    local ends, number_there = moment + expiry, amount
    local there = redis.call('ZRANGEBYSCORE', key, ends, ends)[1]
    if there then
        number_there = number_there + count_of(there)
        redis.call('ZREM', key, there)
    end
    redis.call('ZADD', key, ends, string.format('%.0f:%d', ends, number_there))
    -- Without the oldest hits it is still over as long as they would be in the window.
    local kept = count
    while kept > threshold do
        local oldest = redis.call('ZRANGE', key, 1, 1)[1]
        if not oldest or kept - count_of(oldest) <= threshold then
            break
        end
        kept = kept - count_of(oldest)
        redis.call('ZREM', key, oldest)
    end
    set_sum(key, kept)
    redis.call('PEXPIRE', key, expiry + 1000)
    answer(1, count, until_one_fits(key, kept, threshold, moment))
end

function commands.slideback(key)
    local amount, expiry = tonumber(take()), tonumber(take())
    local sum = current(key, now(), expiry)
    if not sum then
        return
    end
    local before = amount
    while amount > 0 and sum > 0 do
        local newest = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
        local there = newest[1]
        if not there or there == 'sum' then
            break
        end
        local less = math.min(count_of(there), amount)
        redis.call('ZREM', key, there)
        if less < count_of(there) then
            local ends = tonumber(newest[2])
            redis.call('ZADD', key, ends, string.format('%.0f:%d', ends, count_of(there) - less))
        end
        amount, sum = amount - less, sum - less
        set_sum(key, sum)
    end
    answer(amount < before and 2 or 3)
end

for index, key in ipairs(KEYS) do
    commands[take()](key)
end
return answers
