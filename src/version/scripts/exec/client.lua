-- The work of a client's own script, which the proxy puts before all of this as `q_run`. Argument 4 is how many lines it
-- has, argument 9 + k its name; then come the number of its keys, its keys, its arguments.
lines = tonumber(ARGV[4])
result = run(q_run, ARGV[9 + k], 10 + k, #ARGV)
if wanted then
  undo()
  return {'K', wanted}
end
-- A script that wrote anything has written all its keys; one that has not, none.
written = string.rep(wrote and '1' or '0', k)
