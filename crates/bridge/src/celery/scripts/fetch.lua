-- Takes messages from a queue's lists and leases them, in one step: no message is ever in nobody's
-- hands. First what a dead worker left and what was delayed until now, then the lists by priority.
-- KEYS: leased (lease -> when it ends), delayed (lease -> when it is due), messages (lease ->
--       message), tries (lease -> deliveries, when more than one), revoked, then the lists.
-- ARGV: lease in ms, deliveries wanted, prefix of new lease ids, first number, the worker's time in
--       ms, then task, batch …
-- Leases end by Redis' clock, which all workers share; what is due is so by the clock of the worker,
-- who judges a message's eta by it too.
-- Returns when the next delayed one is due (-1: none), the version of the revoked ids, how many more
-- deliveries were wanted than there were, then lease, delivery number and message of each.
local leased, delayed, messages, tries, revoked = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = now + ARGV[1]
local room = tonumber(ARGV[2])
local number = tonumber(ARGV[4])
local due = tonumber(ARGV[5])
local batches = {}
for i = 6, #ARGV, 2 do
    batches[ARGV[i]] = tonumber(ARGV[i + 1])
end
local out = {-1, redis.call('GET', revoked) or '0', 0}

-- What adds comes before what removes: when Redis is out of memory it refuses the former in the
-- middle of a script, and a message may be in two places then, but never in none.
local function hold(message, delivery)
    local lease
    -- A lease's id is nobody else's, whatever the worker believes to have used up.
    repeat
        lease = ARGV[3] .. string.format('%.0f', number)
        number = number + 1
    until redis.call('HSETNX', messages, lease, message) == 1
    if delivery > 1 then
        redis.call('HSET', tries, lease, delivery)
    end
    redis.call('ZADD', leased, ends, lease)
    out[#out + 1] = lease
    out[#out + 1] = delivery
    out[#out + 1] = message
end

for _, ripe in ipairs({{leased, now}, {delayed, due}}) do
    local place, time = ripe[1], ripe[2]
    -- A first delivery leaves no count.
    local uncounted = place == leased and 1 or 0
    for _, lease in ipairs(redis.call('ZRANGEBYSCORE', place, '-inf', time, 'LIMIT', 0, room)) do
        local message = redis.call('HGET', messages, lease)
        if message then
            hold(message, tonumber(redis.call('HGET', tries, lease) or uncounted) + 1)
            room = room - 1
        end
        redis.call('ZREM', place, lease)
        redis.call('HDEL', messages, lease)
        redis.call('HDEL', tries, lease)
    end
end

-- Only a hint for how many to take at once: the worker reads the message itself. A job with limits
-- of its own travels alone.
local function task_of(message)
    if not string.find(message, '"timelimit": ?%[null, ?null%]') then
        return ''
    end
    return string.match(message, '"task": ?"([^"]*)"') or ''
end

for i = 6, #KEYS do
    while room > 0 do
        local next = redis.pcall('LRANGE', KEYS[i], -1, -1)
        -- A key that is no list is nobody's queue.
        if next.err or #next == 0 then
            break
        end
        local task = task_of(next[1])
        local batch = batches[task] or 1
        if batch > 1 then
            next = redis.call('LRANGE', KEYS[i], -batch, -1)
        end
        -- The oldest is the last one.
        local taken = 0
        repeat
            hold(next[#next - taken], 1)
            taken = taken + 1
        until taken == #next or task_of(next[#next - taken]) ~= task
        redis.call('RPOP', KEYS[i], taken)
        room = room - 1
    end
end

local first = redis.call('ZRANGE', delayed, 0, 0, 'WITHSCORES')
if first[2] then
    out[1] = first[2]
end
out[3] = room
return out
