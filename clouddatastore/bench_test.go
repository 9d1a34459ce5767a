package clouddatastore_test

import (
	"context"
	"testing"

	"google.golang.org/api/option"
	"google.golang.org/grpc"

	"github.com/gaesession/gaesession/clouddatastore"
	"github.com/gaesession/gaesession/tier"
)

// A change of a session of 4 KB, on Google's emulators on this machine: they
// show what the calls cost relative to each other, not what they cost at Google.
func BenchmarkUpdate(b *testing.B) {
	for _, d := range databases() {
		b.Run(d.String(), func(b *testing.B) {
			b.Setenv("DATASTORE_EMULATOR_HOST", d.start(b))
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
			last := &tier.Record{}
			for _, guesses := range []bool{true, false} {
				b.Run(map[bool]string{true: "right guess", false: "no guess"}[guesses], func(b *testing.B) {
					for b.Loop() {
						next := newRecord(string(make([]byte, 4096)))
						var guess *tier.Guess
						if guesses {
							guess = &tier.Guess{Token: last.Token, Next: next}
						}
						if err := backup.Update(ctx, []string{id}, guess, to(next)); err != nil {
							b.Fatal(err)
						}
						last = next
					}
				})
			}
		})
	}
}
