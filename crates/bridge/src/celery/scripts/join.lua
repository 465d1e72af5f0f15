-- Hands in a part of a chord. Whoever hands in the last one is given all of them and the claim to
-- send the body; the claim is its own again when it asks once more after a crash. Keys and members
-- are Celery's (celery/backends/redis.py, 5.7), so Python workers may hand in the other parts.
-- KEYS: the group's key.
-- ARGV: the results' database, the part's mark, its entry, its score, the claim, its seconds.
-- Returns {'wait'}, {'done'}, or {'ready', the saved group or '', parts …}.
local group = KEYS[1]
redis.call('SELECT', ARGV[1])
local parts, total, size, marks, claim = group .. '.j', group .. '.t', group .. '.s', group .. '.d', group .. '.c'
if redis.call('GET', claim) == 'done' then
    return {'done'}
end
-- Python workers with `result_chord_ordered=False` keep a list.
local listed = redis.call('TYPE', parts).ok == 'list'
if redis.call('SISMEMBER', marks, ARGV[2]) == 0 then
    if listed then
        redis.call('RPUSH', parts, ARGV[3])
    else
        redis.call('ZADD', parts, ARGV[4], ARGV[3])
    end
    redis.call('SADD', marks, ARGV[2])
end
local there = redis.call(listed and 'LLEN' or 'ZCARD', parts)
for _, key in ipairs({parts, total, size, marks}) do
    redis.call('EXPIRE', key, 86400)
end
local wanted = tonumber(redis.call('GET', size) or -1)
if wanted < 0 or there < wanted + tonumber(redis.call('GET', total) or 0) then
    return {'wait'}
end
local owner = redis.call('GET', claim)
if owner and owner ~= ARGV[5] then
    return {'wait'}
end
redis.call('SET', claim, ARGV[5], 'EX', ARGV[6])
local out = {'ready', redis.call('GET', group) or ''}
for _, part in ipairs(redis.call(listed and 'LRANGE' or 'ZRANGE', parts, 0, -1)) do
    out[#out + 1] = part
end
return out
