//go:build unix

package gaelocal_test

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/appengine/v2/datastore"

	"github.com/gaesession/gaesession/gaelocal"
)

var killTimes = flag.Int("kill.times", 40, "how often a process that writes is killed")

// The test binary is also the process that is killed: this variable names its
// data file.
const envKillData = "GAELOCAL_TEST_KILL"

const (
	killWriters = 4
	killKeys    = 5 // of each writer
)

// killEntity is what a writer stores. Its writes have numbers.
type killEntity struct {
	Number int
	Filler []byte `datastore:",noindex"`
}

// killStep is the write with that number of a writer: what it leaves under
// which keys. A negative value stands for a deletion.
func killStep(number int) map[int]int {
	k := number % killKeys
	switch number % 7 {
	case 3:
		return map[int]int{k: -1}
	case 2, 5: // a transaction on two entity groups
		return map[int]int{k: number, (k + 1) % killKeys: number}
	case 6: // one that deletes and stores
		return map[int]int{k: -1, (k + 2) % killKeys: number}
	}
	return map[int]int{k: number}
}

// killState is what a writer has stored after that many writes, by key.
func killState(writes int) (state [killKeys]int) {
	for number := 1; number <= writes; number++ {
		for k, v := range killStep(number) {
			state[k] = max(v, 0)
		}
	}
	return state
}

func killKey(ctx context.Context, writer, k int) *datastore.Key {
	return datastore.NewKey(ctx, "Killed", fmt.Sprintf("%d-%d", writer, k), 0, nil)
}

// killRead returns what a writer has stored, by key.
func killRead(ctx context.Context, writer int) (state [killKeys]int, err error) {
	for k := range killKeys {
		var e killEntity
		if err := datastore.Get(ctx, killKey(ctx, writer, k), &e); err == nil {
			state[k] = e.Number
		} else if !errors.Is(err, datastore.ErrNoSuchEntity) {
			return state, err
		}
	}
	return state, nil
}

// TestKillChild is the process that is killed. It is told on its standard input
// how many writes each writer has done, and says on its standard output which
// ones are acknowledged.
func TestKillChild(t *testing.T) {
	data := os.Getenv(envKillData)
	if data == "" {
		t.Skip("only as the process that is killed")
	}
	_, ctx := startLocal(t, gaelocal.Options{Data: data})
	done := make([]int, killWriters)
	for w := range done {
		if _, err := fmt.Scan(&done[w]); err != nil {
			t.Fatal(err)
		}
	}
	var out sync.Mutex
	var running sync.WaitGroup
	fmt.Println("writing")
	for w := range killWriters {
		running.Add(1)
		go func() {
			defer running.Done()
			for number := done[w] + 1; ; number++ {
				if err := killWrite(ctx, w, number); err != nil {
					t.Error(err)
					return
				}
				out.Lock()
				_, err := fmt.Printf("%d %d\n", w, number)
				out.Unlock()
				if err != nil {
					return // nobody listens
				}
			}
		}()
	}
	running.Wait()
}

func killWrite(ctx context.Context, writer, number int) error {
	step := killStep(number)
	write := func(ctx context.Context) error {
		for k, v := range step {
			var err error
			if v < 0 {
				err = datastore.Delete(ctx, killKey(ctx, writer, k))
			} else {
				// Of several pages of the file, now and then.
				_, err = datastore.Put(ctx, killKey(ctx, writer, k), &killEntity{v, make([]byte, number*997%8000)})
			}
			if err != nil {
				return err
			}
		}
		return nil
	}
	if len(step) == 1 {
		return write(ctx)
	}
	return datastore.RunInTransaction(ctx, write, &datastore.TransactionOptions{XG: true})
}

// killLanes are data files with a process each at a time.
const killLanes = 4

func TestTheDataFileSurvivesKill9AtAnyMoment(t *testing.T) {
	t.Parallel()
	began := time.Now()
	var mu sync.Mutex
	var running sync.WaitGroup
	total, unacknowledged, beforeWriting := 0, 0, 0
	for lane := range killLanes {
		data := filepath.Join(t.TempDir(), "data.db")
		running.Add(1)
		go func() {
			defer running.Done()
			done := make([]int, killWriters) // writes that are in the file
			for n := lane; n < *killTimes && !t.Failed(); n += killLanes {
				acknowledged, writing := killOne(t, data, done)
				found := killCheck(t, data, acknowledged)
				mu.Lock()
				if !writing {
					beforeWriting++
				}
				for w := range found {
					total += acknowledged[w] - done[w]
					unacknowledged += found[w] - acknowledged[w]
				}
				mu.Unlock()
				done = found
			}
		}()
	}
	running.Wait()
	t.Logf("killed %d times, %d of them before the first write: %d writes acknowledged, all there; %d more not acknowledged but there; %v",
		*killTimes, beforeWriting, total, unacknowledged, time.Since(began).Round(time.Millisecond))
	if total < *killTimes {
		t.Errorf("%d writes, too few to prove anything", total)
	}
}

// killOne lets a process write, kills it at some moment and returns which
// writes it has acknowledged, and whether it had begun.
func killOne(t *testing.T, data string, done []int) (acknowledged []int, writing bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestKillChild$")
	cmd.Env = append(os.Environ(), envKillData+"="+data)
	cmd.Stdin = strings.NewReader(strings.Trim(fmt.Sprint(done), "[]") + "\n")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Error(err)
		return done, false
	}
	kill := func() {
		if err := cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	}
	// Now and then it is killed while it opens the file, as a rule some time
	// after some of its writes.
	soon := func() { time.AfterFunc(time.Duration(rand.Int64N(int64(10*time.Millisecond))), kill) }
	writes := rand.IntN(20)
	early := rand.IntN(10) == 0
	if early {
		soon()
	}
	stuck := time.AfterFunc(20*time.Second, kill)
	defer stuck.Stop()

	acknowledged = append([]int(nil), done...)
	lines := bufio.NewScanner(out)
	var other []string
	for lines.Scan() {
		var w, number int
		switch n, err := fmt.Sscanf(lines.Text(), "%d %d", &w, &number); {
		case lines.Text() == "writing":
			writing = true
			if !early && writes == 0 {
				soon()
			}
		case n == 2 && err == nil && w >= 0 && w < killWriters:
			if number != acknowledged[w]+1 {
				t.Errorf("writer %d acknowledged %d after %d", w, number, acknowledged[w])
			}
			acknowledged[w] = number
			if writes--; !early && writes == 0 {
				soon()
			}
		default:
			other = append(other, lines.Text())
		}
	}
	err = cmd.Wait()
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended by itself: %v\n%s\n%s", err, strings.Join(other, "\n"), stderr.String())
	}
	return acknowledged, writing
}

// killCheck opens the file and returns how many writes of each writer it has:
// those that were acknowledged, and perhaps the one after.
func killCheck(t *testing.T, data string, acknowledged []int) []int {
	t.Helper()
	found := make([]int, len(acknowledged))
	// The environment, which points at the server, is the whole process's.
	killChecking.Lock()
	defer killChecking.Unlock()
	server, err := gaelocal.Start(gaelocal.Options{Data: data})
	if err != nil {
		t.Errorf("the file does not open: %v", err)
		return found
	}
	defer func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	}()
	restore, err := server.Setenv()
	if err != nil {
		t.Error(err)
		return found
	}
	defer restore()
	ctx := context.Background()
	for w, number := range acknowledged {
		got, err := killRead(ctx, w)
		if err != nil {
			t.Errorf("read what writer %d has stored: %v", w, err)
			return found
		}
		switch got {
		case killState(number):
			found[w] = number
		case killState(number + 1):
			found[w] = number + 1
		default:
			t.Errorf("writer %d: the file has %v; acknowledged is write %d, which leaves %v, and the next leaves %v",
				w, got, number, killState(number), killState(number+1))
		}
	}
	return found
}

var killChecking sync.Mutex
