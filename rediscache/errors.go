package rediscache

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/gaesession/gaesession/tier"
)

var (
	// denied matches the errors of commands that the server does not permit or have.
	denied = regexp.MustCompile(`NOPERM|ACL failure|can't run this command|(?i:unknown (redis )?command)`)

	// unknown matches the errors of wrong or missing credentials.
	unknown = regexp.MustCompile(`NOAUTH|WRONGPASS`)

	// notAnItem matches the errors of a key that holds anything but an item.
	notAnItem = regexp.MustCompile(`WRONGTYPE|` + foreign)
)

// refusal reports whether the server answered with an error: the command had no
// effect.
func refusal(err error) bool {
	var answer redis.Error
	return errors.As(err, &answer) && !errors.Is(err, redis.Nil)
}

// wrap classifies an error for the caller. It cuts off the arguments of an unknown
// command, which servers repeat, because the session's value is among them.
func (c *Cache) wrap(ctx context.Context, op, key string, err error) error {
	if err == nil {
		return nil
	}
	var network *net.OpError
	var certificate *tls.CertificateVerificationError
	dial := errors.As(err, &network) && network.Op == "dial" || errors.As(err, &certificate) || errors.Is(err, redis.Nil) // see failure
	switch {
	case refusal(err) && notAnItem.MatchString(err.Error()):
		c.foundForeign(ctx, key)
		err = fmt.Errorf("%w: there is something under the key that is no item", tier.ErrRejected)
	case refusal(err):
		text, _, cut := strings.Cut(err.Error(), ", with args beginning with")
		if cut {
			text = strings.TrimPrefix(text, tier.ErrRejected.Error()+": ") // checkServer has found it out
			err = errors.New(text)
		}
		if denied.MatchString(text) {
			c.checked.Store(false) // what was permitted is not any more
		}
		if (denied.MatchString(text) || unknown.MatchString(text)) && !errors.Is(err, tier.ErrRejected) {
			err = fmt.Errorf("%w: %w", tier.ErrRejected, err)
		}
	case dial && ctx.Err() == nil:
		err = fmt.Errorf("%w: %w", tier.ErrUnreachable, err)
	case errors.Is(err, redis.ErrPoolTimeout) || errors.Is(err, redis.ErrPoolExhausted):
		err = fmt.Errorf("%w: %w", tier.ErrBusy, err)
	}
	return fmt.Errorf("rediscache: %s: %w", op, err)
}

// Foreign returns how many calls failed because their key held something other than
// an item. If it is not zero, another program writes keys with this cache's prefix.
func (c *Cache) Foreign() int64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.foreign
}

// foundForeign counts a call that found anything but an item under its key.
func (c *Cache) foundForeign(ctx context.Context, key string) {
	c.mu.Lock()
	c.foreign++
	calls, now := c.foreign, time.Now()
	silent := now.Sub(c.logged) < time.Minute
	if !silent {
		c.logged = now
	}
	c.mu.Unlock()
	if !silent {
		cmp.Or(c.logger, slog.Default()).ErrorContext(ctx, "rediscache: there is something under a key of the cache that is no session; "+
			"it is neither used nor replaced", "key", key, "calls", calls)
	}
}
