-- The end of a client's script: what it has said of RESP3 holds for its reply.
if spoken == 3 then redis.setresp(3) end
return reply
