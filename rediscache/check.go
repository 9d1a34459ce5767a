package rediscache

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/tier"
)

// Check reports whether the server, or every master of the Cluster, can hold a
// cache. Call it at startup if the app should not start otherwise. Apps need not
// call it: each call of a Cache makes the same check of its own server first, until
// one check has succeeded.
//
// Check returns [tier.ErrRejected], with a text that says what to change, if the
// server is too old or does not permit what the cache needs. It returns
// [tier.ErrUnreachable] if it cannot connect.
func (c *Cache) Check(ctx context.Context) error {
	check := func(ctx context.Context, client redis.UniversalClient) error {
		if err := checkServer(ctx, client); err != nil {
			return err
		}
		p := client.TxPipeline()
		checkScript.EvalSha(ctx, p, nil)
		return unfit(failure(execute(ctx, p)))
	}
	_, err := within(ctx, func() (struct{}, error) {
		if cluster, ok := c.client.(*redis.ClusterClient); ok {
			return struct{}{}, cluster.ForEachMaster(ctx, func(ctx context.Context, master *redis.Client) error { return check(ctx, master) })
		}
		return struct{}{}, check(ctx, c.client)
	})
	if err == nil {
		c.checked.Store(true)
	}
	return c.wrap(ctx, "check", "", err)
}

// checkServer checks the fence and the version of one server: in a Cluster, of the
// server that has the key. It also checks that the server permits MULTI: if not, the
// client of one server uses the connection of a transaction again although it has not
// read all answers, and gives them to other calls.
func checkServer(ctx context.Context, client redis.UniversalClient, keys ...string) error {
	version, err := checkScript.Eval(ctx, client, keys).Text()
	if err == nil && tooOld(version) {
		return fmt.Errorf("%w: in Redis %s a key may expire in the middle of a transaction; use 6.0.15, 6.2.5 or later", tier.ErrRejected, version)
	}
	if _, one := client.(*redis.Client); one && err == nil {
		p := client.Pipeline()
		p.Do(ctx, "multi")
		p.Do(ctx, "exec")
		err = failure(execute(ctx, p))
	}
	return unfit(err)
}

// unfit adds to an error of permissions what to change.
func unfit(err error) error {
	if !redis.HasErrorPrefix(err, noFence) && !(refusal(err) && denied.MatchString(err.Error())) {
		return err
	}
	return fmt.Errorf("%w: the server does not let scripts and transactions read its replication id, without which older sessions "+
		"could come back after a restart or a failover; permit the commands EVAL, EVALSHA, MULTI, EXEC, INFO, GET, SET, DEL, GETRANGE "+
		"and SETRANGE (in an ACL: +eval +evalsha +multi +exec +info +get +set +del +getrange +setrange), or use a service that has "+
		"them: %w", tier.ErrRejected, err)
}

func tooOld(version string) bool {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(version, "%d.%d.%d", &major, &minor, &patch); n < 3 {
		return false // another numbering
	}
	v := 10000*major + 100*minor + patch
	return v < 6_00_15 || 6_01_00 <= v && v < 6_02_05
}
