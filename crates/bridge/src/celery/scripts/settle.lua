-- Writes what became of leased messages: for each, in one step, its lease ends, what it sends is
-- sent, and its results are stored where clients wait for them. A message whose lease has passed to
-- somebody else is theirs, and nothing of it is written here.
-- KEYS: leased, delayed, messages, tries, dead (lease -> letter), deaths (lease -> when).
-- ARGV: the broker's database, the results' database, dead letters kept, then for each message:
--   lease, action (done | wait | dead | store), a, b,
--     store: there is no lease, only results; wait: a = when it is due in ms, b = deliveries so far; dead: a = the letter, b = its time in ms
--   number of messages, then list and message of each,
--   number of chords begun, then group, size and saved structure ('' when it has none) of each,
--   number of results, then key, text and seconds of each,
--   number of chords finished, then group key and claim of each.
-- Returns how many were still held, how many dead letters were deleted since there are too many, and
-- the lists nothing could be put on.
local leased, delayed, messages, tries, dead, deaths = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local position = 3
local function take()
    position = position + 1
    return ARGV[position]
end
local broker, backend, keep = ARGV[1], ARGV[2], tonumber(ARGV[3])
local sizes, results, finished, pushes, jobs = {}, {}, {}, {}, {}
local settled = 0

while position < #ARGV do
    local job = {lease = take(), action = take(), a = take(), b = take()}
    local held = job.action == 'store' or redis.call('ZSCORE', leased, job.lease)
    if held and job.action ~= 'store' then
        jobs[#jobs + 1] = job
        settled = settled + 1
    end
    for _, list in ipairs({pushes, sizes, results, finished}) do
        local width = (list == results or list == sizes) and 3 or 2
        for _ = 1, tonumber(take()) do
            local entry = {}
            for i = 1, width do
                entry[i] = take()
            end
            if held then
                list[#list + 1] = entry
            end
        end
    end
end

-- What adds comes before what removes: when Redis refuses in the middle (it is out of memory), the
-- leases are still there and all of this is done again. A key that its client made something else
-- must not stop the others.
local function unless_another_type(...)
    local answer = redis.pcall(...)
    if type(answer) == 'table' and answer.err then
        if string.sub(answer.err, 1, 9) ~= 'WRONGTYPE' then
            -- Fails again, and ends the script with Redis' own error.
            return redis.call(...)
        end
        return false
    end
    return answer
end

if #sizes + #results + #finished > 0 then
    if backend ~= broker then
        redis.call('SELECT', backend)
    end
    -- A chord's size is known before its last task can end.
    for _, entry in ipairs(sizes) do
        redis.call('DEL', entry[1] .. '.c')
        redis.call('SET', entry[1] .. '.s', entry[2], 'EX', 86400)
        if entry[3] ~= '' then
            redis.call('SET', entry[1], entry[3], 'EX', 86400)
        end
    end
    for _, entry in ipairs(results) do
        local there = unless_another_type('GET', entry[1])
        if not (there and string.find(there, '^{"status": ?"SUCCESS"')) then
            redis.call('SETEX', entry[1], entry[3], entry[2])
            redis.call('PUBLISH', entry[1], entry[2])
        end
    end
    for _, entry in ipairs(finished) do
        local group = entry[1]
        if redis.call('GET', group .. '.c') == entry[2] then
            redis.call('SET', group .. '.c', 'done', 'EX', 300)
            redis.call('DEL', group .. '.j', group .. '.t', group .. '.s', group .. '.d')
        end
    end
    if backend ~= broker then
        redis.call('SELECT', broker)
    end
end
local lost = {}
for _, entry in ipairs(pushes) do
    if not unless_another_type('LPUSH', entry[1], entry[2]) then
        lost[#lost + 1] = entry[1]
    end
end
for _, job in ipairs(jobs) do
    local lease = job.lease
    if job.action == 'wait' then
        if tonumber(job.b) > 0 then
            redis.call('HSET', tries, lease, job.b)
        else
            redis.call('HDEL', tries, lease)
        end
        redis.call('ZADD', delayed, job.a, lease)
    else
        if job.action == 'dead' then
            redis.call('HSET', dead, lease, job.a)
            redis.call('ZADD', deaths, job.b, lease)
        end
        redis.call('HDEL', messages, lease)
        redis.call('HDEL', tries, lease)
    end
    redis.call('ZREM', leased, lease)
end
local many = redis.call('ZCARD', deaths) - keep
if many > 0 then
    local oldest = redis.call('ZPOPMIN', deaths, many)
    for i = 1, #oldest, 2 do
        redis.call('HDEL', dead, oldest[i])
    end
end
return {settled, many, unpack(lost)}
