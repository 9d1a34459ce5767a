//go:build go1.25

package interleave

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
)

// explored runs a search to its end.
func explored(t *testing.T, name string, x *explorer) *explorer {
	t.Helper()
	prepare(t)
	sc, err := parseScenario(name)
	if err != nil {
		t.Fatal(err)
	}
	x.scenario, x.most = sc, 1
	x.explore(t, context.Background())
	for _, v := range x.found {
		t.Errorf("%v", v)
	}
	return x
}

func TestWithoutSwitchesOneRequestFollowsTheOther(t *testing.T) {
	for name, want := range map[string][]string{
		"cached change:a+change:b":              {"01", "10"},
		"cached change:a+logout cascade":        {"01", "10"},
		"cached change:a+change:b+logout":       {"012", "021", "102", "120", "201", "210"},
		"created login+change:a+change:b scs":   {"012", "021"},
		"cached regenerate:a+change:a sessions": {"01", "10"},
		"cached async:a+change:b bare":          {"01", "010", "10"}, // what 0 has left to the background is as another request
		"cached enter+endall owned bare":        {"01", "10"},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			explored(t, name, &explorer{atEnd: func(w *world) {
				var order []int
				for _, c := range w.trace {
					order = append(order, c.actor)
				}
				text := ""
				for _, i := range slices.Compact(order) {
					text += fmt.Sprint(i)
				}
				got = append(got, text)
			}})
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, want) {
				t.Errorf("got %v, want %v", got, want)
			}
		})
	}
}

// statesOf are the states that a search has reached.
func statesOf(x *explorer) []string {
	all := make([]string, 0, len(x.visited))
	for key := range maps.Keys(x.visited) {
		all = append(all, string(key[:]))
	}
	slices.Sort(all)
	return all
}

func TestAnAmpleBoundReachesWhatNoBoundDoes(t *testing.T) {
	if isSlow {
		t.Skip("the race detector has nothing to find in it")
	}
	for _, test := range []struct {
		scenario string
		events   int
	}{
		{"cached change:a+change:b", 0}, {"cached async:a+logout bare", 0}, {"evicted read+regenerate bare", 0},
		{"cached read+logout bare", 1},
	} {
		t.Run(test.scenario, func(t *testing.T) {
			all := explored(t, test.scenario, &explorer{events: test.events, switches: unbounded})
			ample := explored(t, test.scenario, &explorer{events: test.events, switches: 20})
			if ample.stats.Beyond > 0 {
				t.Fatalf("the bound is not ample: %v", ample.stats)
			}
			if !slices.Equal(statesOf(ample), statesOf(all)) || ample.stats.Ends != all.stats.Ends {
				t.Errorf("got %v, want %v", ample.stats, all.stats)
			}
		})
	}
}

func TestKnownStatesAreFollowedUpWithTheSwitchesThatAreLeft(t *testing.T) {
	if isSlow {
		t.Skip("the race detector has nothing to find in it")
	}
	for _, name := range []string{"cached change:a+change:b", "cached async:a+logout bare", "evicted read+logout cascade"} {
		last := 0
		for bound := range 3 {
			t.Run(fmt.Sprint(name, " ", bound), func(t *testing.T) {
				every := explored(t, name, &explorer{switches: bound, forgets: true})
				x := explored(t, name, &explorer{switches: bound})
				t.Log(x.stats, "; without a table ", every.stats)
				if !slices.Equal(statesOf(x), statesOf(every)) {
					t.Errorf("got %v, want %v", x.stats, every.stats)
				}
				if x.stats.States <= last {
					t.Errorf("got %d states, as many as with a smaller bound", x.stats.States)
				}
				last = x.stats.States
			})
		}
	}
}
