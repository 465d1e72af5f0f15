-- Ends the leases of a worker that is known to be dead, so that its messages are fetched again.
-- KEYS: one `leased` per queue. ARGV: how the worker's lease ids begin, and those of its present life.
-- Returns how many.
local ended = 0
for _, leased in ipairs(KEYS) do
    for _, lease in ipairs(redis.call('ZRANGE', leased, 0, -1)) do
        if string.sub(lease, 1, #ARGV[1]) == ARGV[1] and string.sub(lease, 1, #ARGV[2]) ~= ARGV[2] then
            redis.call('ZADD', leased, 'XX', 0, lease)
            ended = ended + 1
        end
    end
end
return ended
