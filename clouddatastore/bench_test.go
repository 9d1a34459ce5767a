package clouddatastore_test

import (
	"context"
	"os"
	"testing"

	"google.golang.org/api/option"
	"google.golang.org/grpc"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/internal/verify/emulators"
	"github.com/gaesession/gaesession/tier"
)

// A change of a session of 4 KB, on Google's emulators on this machine: they
// show what the calls cost beside each other, not what they cost at Google.
func BenchmarkUpdate(b *testing.B) {
	for _, d := range databases() {
		b.Run(d.String(), func(b *testing.B) {
			host := emulators.Start(b, d.Database)
			if err := os.Setenv("DATASTORE_EMULATOR_HOST", host); err != nil {
				b.Fatal(err)
			}
			o := inNewNamespace()
			if d.ignoresVersions {
				o.ClientOptions = []option.ClientOption{option.WithGRPCDialOption(grpc.WithUnaryInterceptor(ignoreVersions))}
			}
			backup, err := clouddatastore.New(context.Background(), project, &o)
			if err != nil {
				b.Fatal(err)
			}
			defer backup.Close()
			ctx, id := context.Background(), newID()
			var last *tier.Record
			change := func(*tier.Record) (*tier.Record, error) {
				r := record(string(make([]byte, 4096)))
				last = &r
				return last, nil
			}
			for _, known := range []bool{true, false} {
				if known && d.ignoresVersions {
					continue // known is of no use there
				}
				b.Run(map[bool]string{true: "known", false: "not known"}[known], func(b *testing.B) {
					for b.Loop() {
						k := last
						if !known {
							k = nil
						}
						if err := backup.Update(ctx, id, k, change); err != nil {
							b.Fatal(err)
						}
					}
				})
			}
		})
	}
}
