-- The end of `exec` and `multi`.
return reply
