-- Extends leases that are still held.
-- KEYS: leased. ARGV: lease in ms, then the leases.
local time = redis.call('TIME')
local ends = time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[1]
for i = 2, #ARGV do
    redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[i])
end
