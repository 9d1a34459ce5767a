//go:build go1.25

package gaelocal_test

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/gaelocal"
	"github.com/gaesession/gaesession/internal/wire"
)

func TestTimeInABubblePassesForCalls(t *testing.T) {
	s, err := gaelocal.Start(gaelocal.Options{Latency: gaelocal.AppEngineLatency})
	noError(t, err)
	defer func() { noError(t, s.Close()) }()
	call := func(t *testing.T, method string, request, response proto.Message) {
		t.Helper()
		b, err := proto.Marshal(request)
		noError(t, err)
		b, err = s.Call(context.Background(), "memcache", method, "", b)
		noError(t, err)
		noError(t, proto.Unmarshal(b, response))
	}
	for range 2 { // bubbles one after the other share the server
		synctest.Test(t, func(t *testing.T) {
			key := []byte("k")
			begun := time.Now()
			call(t, "Set", &wire.MemcacheSetRequest{Item: []*wire.MemcacheSetRequest_Item{
				{Key: key, Value: []byte("v"), ExpirationTime: proto.Uint32(60)},
			}}, &wire.MemcacheSetResponse{})
			if got, want := time.Since(begun), 1500*time.Microsecond; got != want {
				t.Errorf("Set took %v, want %v", got, want)
			}
			for _, c := range []struct {
				after time.Duration
				want  int
			}{{58 * time.Second, 1}, {2 * time.Second, 0}} {
				time.Sleep(c.after)
				var response wire.MemcacheGetResponse
				call(t, "Get", &wire.MemcacheGetRequest{Key: [][]byte{key}}, &response)
				if got := len(response.GetItem()); got != c.want {
					t.Errorf("after %v there are %d items, want %d", time.Since(begun), got, c.want)
				}
			}
		})
	}
}
