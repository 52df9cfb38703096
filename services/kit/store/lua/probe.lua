-- Write a short-lived key. KEYS: it.
redis.call('SET', KEYS[1], '1', 'EX', 60)
return 1
