module github.com/gaesession/gaesession/internal/verify/peers

go 1.26.0

replace (
	github.com/gaesession/gaesession => ../../..
	github.com/gaesession/gaesession/rediscache => ../../../rediscache
)

require (
	github.com/alexedwards/scs/goredisstore v0.0.0-20250212122300-421ef1d8611c
	github.com/alexedwards/scs/v2 v2.9.0
	github.com/boj/redistore v1.4.1
	github.com/gaesession/gaesession v0.2.0
	github.com/gaesession/gaesession/rediscache v0.2.0
	github.com/gorilla/sessions v1.4.0
	github.com/icza/session v1.3.0
	github.com/redis/go-redis/v9 v9.22.0
)

require (
	github.com/cenkalti/backoff/v5 v5.0.3 // indirect
	github.com/cespare/xxhash/v2 v2.3.0 // indirect
	github.com/golang/protobuf v1.5.4 // indirect
	github.com/gomodule/redigo v1.9.2 // indirect
	github.com/gorilla/securecookie v1.1.2 // indirect
	go.etcd.io/bbolt v1.4.3 // indirect
	go.uber.org/atomic v1.11.0 // indirect
	go.uber.org/goleak v1.3.0 // indirect
	golang.org/x/sync v0.16.0 // indirect
	golang.org/x/sys v0.35.0 // indirect
	google.golang.org/appengine/v2 v2.0.6 // indirect
	google.golang.org/protobuf v1.36.12 // indirect
)
