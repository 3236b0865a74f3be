-- Commands for counters, each on its own and all in one step.
-- KEYS: the counter of each command. ARGV: how many of them have the next command, its name, and what it takes; then the
-- same for the commands after those. Times are in milliseconds.
-- Answers an array. First is a string of two little-endian 64-bit integers for each command: the count and the
-- milliseconds left (-1: no expiry, or it is known); or any number and -2: done, -3: not done; or which of the errors,
-- which are the rest of the array, and -4.
local KEYS, ARGV, call, pcall, type, byte = KEYS, ARGV, redis.call, redis.pcall, type, string.byte
local ONE = byte('1')
local replies, size, errors, place = {}, 0, {}, 0

local function take()
    place = place + 1
    return ARGV[place]
end

local function answer(count, left)
    replies[size + 1] = count
    replies[size + 2] = left
    size = size + 2
end

local function wrong(result)
    return type(result) == 'table' and result.err
end

local function answer_error(text)
    errors[#errors + 1] = text
    answer(#errors, -4)
end

local function answer_done(is_done)
    answer(0, is_done and -2 or -3)
end

local function done(result)
    if wrong(result) then
        return answer_error(result.err)
    end
    answer_done(result ~= false and result ~= 0)
end

local NOT_A_NUMBER = 'ERR value is not an integer or out of range'

-- The number of a counter. Nil: there is none, or it is wrong, which is answered.
local function number(key)
    local value = pcall('GET', key)
    if wrong(value) then
        answer_error(value.err)
    elseif not value then
        answer_done(false)
    elseif not tonumber(value) then
        answer_error(NOT_A_NUMBER)
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
    local time = call('TIME')
    return time[1] * 1000 + math.floor(time[2] / 1000)
end

local function set_sum(key, sum)
    call('ZADD', key, -1 - sum, 'sum')
end

-- Leaves out what ended, and what ends too late because the clock was set back. Returns the sum of the rest.
local function current(key, moment, expiry)
    local sum = pcall('ZSCORE', key, 'sum')
    if wrong(sum) then
        answer_error(sum.err)
        return nil
    end
    sum = sum and -1 - tonumber(sum) or 0
    for _, range in ipairs({ { 0, moment }, { '(' .. (moment + expiry + 1000), '+inf' } }) do
        local gone = call('ZRANGEBYSCORE', key, range[1], range[2])
        if #gone > 0 then
            for _, entry in ipairs(gone) do
                sum = sum - count_of(entry)
            end
            call('ZREMRANGEBYSCORE', key, range[1], range[2])
            set_sum(key, sum)
        end
    end
    return sum
end

-- Milliseconds until so many of the oldest hits have left that one more fits in.
local function until_one_fits(key, kept, threshold, moment)
    local surplus, left, index = kept - threshold + 1, 0, 1
    while surplus > 0 do
        local oldest = call('ZRANGE', key, index, index, 'WITHSCORES')
        if not oldest[1] then
            break
        end
        left = tonumber(oldest[2]) - moment
        surplus = surplus - count_of(oldest[1])
        index = index + 1
    end
    return left
end

-- Each takes its arguments, and returns what does it to a key.
local commands = {}

-- A hit of a counter that the daemon knows, with its end, is one call and is not told the end again. `known` has a 1 for
-- each key that it knows, and a 0 for the others.
function commands.hit()
    local amount, expiry, known = take(), take(), take()
    local least, whole, turn = tonumber(amount), tonumber(expiry), 0
    return function(key)
        turn = turn + 1
        local is_known = byte(known, turn) == ONE
        -- Whoever does not know the counter is mostly the first that counts for it: then this is the only call.
        if not is_known then
            local created = pcall('SET', key, amount, 'PX', expiry, 'NX')
            if wrong(created) then
                return answer_error(created.err)
            elseif created then
                return answer(least, whole)
            end
        end
        local count = pcall('INCRBY', key, amount)
        if type(count) == 'table' then
            return answer_error(count.err)
        end
        if is_known and count > least then
            return answer(count, -1)
        end
        local left = call('PTTL', key)
        if left < 0 then
            call('PEXPIRE', key, expiry)
            left = whole
        end
        answer(count, left)
    end
end

function commands.read()
    return function(key)
        local count = number(key)
        if count then
            answer(count, call('PTTL', key))
        end
    end
end

function commands.back()
    local amount = tonumber(take())
    return function(key)
        local count = number(key)
        if count then
            if count > 0 then
                call('DECRBY', key, math.min(amount, count))
            end
            answer_done(true)
        end
    end
end

function commands.add()
    local count, expiry = take(), take()
    return function(key)
        done(pcall('SET', key, count, 'PX', expiry, 'NX'))
    end
end

function commands.replace()
    local count, expiry = take(), take()
    return function(key)
        done(pcall('SET', key, count, 'PX', expiry, 'XX'))
    end
end

function commands.touch()
    local expiry = take()
    return function(key)
        done(pcall('PEXPIRE', key, expiry))
    end
end

function commands.delete()
    return function(key)
        done(pcall('DEL', key))
    end
end

local function slide(key, amount, expiry, threshold, keeps)
    local moment = now()
    local before = current(key, moment, expiry)
    if not before then
        return
    end
    local count = before + amount
    if amount == 0 then
        if before == 0 then
            return answer_done(false)
        end
        return answer(before, until_one_fits(key, before, threshold, moment))
    end
    if count > threshold and not keeps then
        return answer(count, until_one_fits(key, before, threshold, moment))
    end
    local ends, number_there = moment + expiry, amount
    local there = call('ZRANGEBYSCORE', key, ends, ends)[1]
    if there then
        number_there = number_there + count_of(there)
        call('ZREM', key, there)
    end
    call('ZADD', key, ends, string.format('%.0f:%d', ends, number_there))
    -- Without the oldest hits it is still over as long as they would be in the window.
    local kept = count
    while kept > threshold do
        local oldest = call('ZRANGE', key, 1, 1)[1]
        if not oldest or kept - count_of(oldest) <= threshold then
            break
        end
        kept = kept - count_of(oldest)
        call('ZREM', key, oldest)
    end
    set_sum(key, kept)
    call('PEXPIRE', key, expiry + 1000)
    answer(count, until_one_fits(key, kept, threshold, moment))
end

function commands.slide()
    local amount, expiry, threshold, keeps = tonumber(take()), tonumber(take()), tonumber(take()), take() == '1'
    return function(key)
        slide(key, amount, expiry, threshold, keeps)
    end
end

local function slide_back(key, amount, expiry)
    local sum = current(key, now(), expiry)
    if not sum then
        return
    end
    local before = amount
    while amount > 0 and sum > 0 do
        local newest = call('ZRANGE', key, -1, -1, 'WITHSCORES')
        local there = newest[1]
        if not there or there == 'sum' then
            break
        end
        local less = math.min(count_of(there), amount)
        call('ZREM', key, there)
        if less < count_of(there) then
            local ends = tonumber(newest[2])
            call('ZADD', key, ends, string.format('%.0f:%d', ends, count_of(there) - less))
        end
        amount, sum = amount - less, sum - less
        set_sum(key, sum)
    end
    answer_done(amount < before)
end

function commands.slideback()
    local amount, expiry = tonumber(take()), tonumber(take())
    return function(key)
        slide_back(key, amount, expiry)
    end
end

local index = 0
while index < #KEYS do
    local last = index + take()
    local command = commands[take()]()
    while index < last do
        index = index + 1
        command(KEYS[index])
    end
end
return { struct.pack('<' .. string.rep('i8', size), unpack(replies)), unpack(errors) }
