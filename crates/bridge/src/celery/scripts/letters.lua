-- Takes dead letters out: back to the queue's list, or away.
-- KEYS: dead, deaths, the list. ARGV: retry | discard, then lease and message of each.
-- Returns how many were still there.
local taken = 0
for i = 2, #ARGV, 2 do
    if redis.call('HEXISTS', KEYS[1], ARGV[i]) == 1 then
        if ARGV[1] == 'retry' then
            redis.call('LPUSH', KEYS[3], ARGV[i + 1])
        end
        redis.call('HDEL', KEYS[1], ARGV[i])
        redis.call('ZREM', KEYS[2], ARGV[i])
        taken = taken + 1
    end
end
return taken
