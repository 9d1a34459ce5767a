//go:build go1.25

package interleave

import (
	"fmt"
	"testing"
)

func TestPromisesHoldInEverySchedule(t *testing.T) { Schedules(t, "", "redis") }

func TestPromisesOfOwnersHoldInEverySchedule(t *testing.T) { Owners(t, "", "redis") }

func TestPromisesHoldInRandomWalks(t *testing.T) { Walks(t, "", "", "redis") }

func TestReplay(t *testing.T) { Replay(t) }

// TestSchedulesThatBrokeAPromise runs again what was found in the code, and in
// code without one of its rules.
func TestSchedulesThatBrokeAPromise(t *testing.T) {
	prepare(t)
	for name, text := range map[string]string{
		"an asynchronous change that finds no item keeps a time from before": "old change:a+async:a: 1.get 1.save 0.get 0.save 0.begin 0.txn-get 0.txn-put " +
			"0.commit 0.cas:value 1.cas:unsaved evict 1.get 1.begin 1.txn-get",
		"the same, and the other's background save is late": "old-alone async:b+async:b+reset:a: 1.get 1.save 0.get 0.save 0.cas:unsaved 0.begin 2.get 2.save " +
			"1.cas:unsaved evict 2.cas:unsaved 1.get 1.begin 1.txn-get 1.txn-put 0.txn-get 0.txn-put 1.commit",
		"a session that does not say when it ends is dropped from Memcache by a read": "old-alone delete:a+reset:a+read+reset:a cascade: " +
			"1.get 3.get 0.get 2.get",
		"a change keeps its time though it was not tried": "cached change:a~behind+change:a cascade: 0.get 1.get 1.save 1.begin 1.txn-put " +
			"1.txn-get 1.commit 1.cas:value 0.save 0.begin 0.txn-put fail(0.txn-get)",
		"a move whose answer is lost, and a logout under the old id": "outlived regenerate+logout+regenerate bare: 0.get 2.get 2.save 0.save " +
			"2.cas:sealed 1.get 2.add:lease 2.begin 0.cas:sealed 2.get 0.get 0.cas:sealed 2.txn-get 2.txn-put 0.add:lease 0.begin cut(2.commit) " +
			"2.ds-get 0.txn-get 0.rollback 0.get 0.set:removed 1.save 1.ds-put 1.set:removed 1.set:removed",
		"what a dead instance had changed in the other session, and a refresh of the first": "cached async-reset:a~shared+async:a#9000+refresh small two " +
			"retries=2: 0.get 0.get' 0.save 0.cas:unsaved' 0.begin 2.get crash(0) 2.get' 2.save 2.begin 1.get 1.get' 2.txn-get 2.txn-put 1.save " +
			"1.begin 2.commit 2.cas:value 1.cas:unsaved' 1.begin 1.txn-get 1.txn-put 1.txn-get' 1.txn-put' crash(1)'",
		"a move that is refused, as all sessions are ending, and a cache that then fails": "evicted regenerate+logout~shared+endall~shared small owned most=1 cascade: 2.begin 2.txn-get@alice 2.txn-put@alice 2.commit " +
			"1.get minute 0.get 1.ds-get 2.ds-put 2.set:removed 0.ds-get 0.save 0.begin 0.txn-get 0.rollback 1.save 0.ds-put " +
			"0.set:removed~",
		"a change that is too large, and another save of the request that the backup fails": "outlived again:a#9000+change:b#9000+async-reset:c small sessions: 2.get 2.save 1.get 1.save 1.begin 1.txn-get 1.txn-put 0.get " +
			"down(2.cas:unsaved) 2.begin 1.commit 0.save 0.begin 0.txn-get 0.rollback 2.txn-get 2.txn-put 0.cas:unsaved 0.begin 2.commit " +
			"2.cas:lease 2.get cancel(0.txn-get) 0.rollback 1.cas:lease 1.get 1.cas:lease",
		"an asynchronous change while the session moves": "cached async:a+regenerate bare: 0.get 0.save 1.get 1.save 1.cas:sealed 1.add:lease " +
			"1.begin 1.txn-get 1.txn-put 0.cas:unsaved 0.get",
		"an old instance puts back what a login has moved": "cached old:a+delete:a+read+own:a cascade: 2.get 3.get 0.get 3.save 3.add:lease 0.save 3.cas:sealed 3.begin 1.get " +
			"3.txn-get 3.txn-put 1.save 1.begin 1.txn-put 0.set:old 3.commit 1.txn-get 1.rollback 3.get 0.ds-put",
		"two logins of another owner, who may have one session": "outlived reset:c~behind+own:bob+enter+own:bob small most=1 cascade: 2.save 1.get 1.cas:unsaved 3.get 3.save 2.add:lease " +
			"2.begin 2.get 2.txn-get 2.txn-put 2.commit 1.begin 1.txn-get 1.txn-put 3.cas:sealed 0.get 0.save 0.begin 1.commit " +
			"0.txn-get 0.txn-put 3.add:lease 3.begin 2.cas:value 3.get 1.get 1.cas:sealed 1.save 1.cas:sealed 0.commit 0.cas:sealed " +
			"1.get 3.txn-get 3.txn-put 1.cas:sealed 1.add:lease 1.begin 1.txn-get 1.txn-put 1.commit 0.get 1.get 1.cas:value " +
			"0.cas:sealed 3.commit 3.begin 1.set:removed 3.txn-get 3.rollback 3.ds-get 3.set:removed 3.add:lease 3.begin 3.txn-get " +
			"3.txn-put 3.get 3.commit 3.get@1~ 3.get~ 3.ds-get~ 3.begin~ 3.txn-get@bob~ 3.txn-put@bob~ 3.commit~ 3.ds-put@1~ " +
			"3.set:removed@1~ 3.set:removed@1~ 3.begin~ 3.txn-get@bob~ 3.txn-put@bob~ 3.commit~",
	} {
		t.Run(name, func(t *testing.T) {
			sc, tr, err := parseTrace(text)
			if err != nil {
				t.Fatal(err)
			}
			if w := replay(t, sc, breach{}, tr, t.Logf); w.violation != nil {
				t.Error(w.violation)
			}
		})
	}
}

func TestTracesAreReadAsTheyArePrinted(t *testing.T) {
	for _, text := range []string{
		"created login+change:a~ahead+logout retries=2 only: 0.get 1.cas:lease fail(1.txn-put) lost(0.commit) crash(2) outage(cache) flush evict back minute expiry",
		"cached again:a+regenerate cascade: 0.get down(1.ds-get) cut(0.commit) fail(0.begin)",
	} {
		sc, tr, err := parseTrace(text)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprintf("%v: %v", sc, tr); got != text {
			t.Errorf("got %s, want %s", got, text)
		}
	}
}
