package gaelocal

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"google.golang.org/protobuf/proto"

	"github.com/gaesession/gaesession/internal/wire"
)

// The data file is a bbolt database. Bucket "gaelocal" has the format's
// version; a bucket named by the application id has bucket "entities", from
// encoded keys to a CRC-32C followed by the EntityProto, and bucket "ids", the
// numbers below which ids may have been handed out.
//
// All entities are read into memory when the file is opened, so that a
// Datastore with a file behaves like one without; from then on the file is only
// written.
var (
	bucketMeta     = []byte("gaelocal")
	bucketEntities = []byte("entities")
	bucketIDs      = []byte("ids")
	keyFormat      = []byte("format")
	keySequential  = []byte("sequential")
	keyScattered   = []byte("scattered")
)

const (
	fileFormat  = "1"
	lockTimeout = time.Second // for another process to let go of the file
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type file struct {
	path string
	app  []byte // the application's bucket
	db   *bolt.DB
}

// openFile opens the data file, or creates it, and hands all entities of the
// application to load, in the order of their keys.
func openFile(path, appID string, ids *ids, load func(*entity)) (f *file, err error) {
	var handle *os.File
	// What the check cannot foresee, such as a disk that fails, makes reading
	// bbolt's memory map fault.
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			f, err = nil, fmt.Errorf("gaelocal: the data file %s is damaged: %v", path, r)
		}
		if err != nil && handle != nil {
			// Lets go of the lock; bbolt may or may not have closed it.
			if cerr := handle.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
				err = errors.Join(err, cerr)
			}
		}
	}()
	info, statErr := os.Stat(path)
	if statErr == nil && info.Mode().IsRegular() && info.Size() > 0 {
		if err := checkFile(path, &handle); err != nil {
			return nil, err
		}
	}
	db, err := openBolt(path, false, &handle)
	if err != nil {
		return nil, err
	}
	if err := warnIfShared(handle); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	f = &file{path: path, app: []byte("app " + appID), db: db}
	if err := f.prepare(ids, load); err != nil {
		return nil, errors.Join(err, db.Close())
	}
	if errors.Is(statErr, fs.ErrNotExist) && runtime.GOOS != "windows" {
		if err := syncDir(filepath.Dir(path)); err != nil {
			return nil, errors.Join(fmt.Errorf("gaelocal: cannot create the data file %s: %w", path, err), db.Close())
		}
	}
	return f, nil
}

// openBolt opens the file at path, which is then locked, and sets handle to it.
func openBolt(path string, readOnly bool, handle **os.File) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{
		ReadOnly:       readOnly,
		Timeout:        lockTimeout,
		NoFreelistSync: true, // opening reads the whole file anyway
		FreelistType:   bolt.FreelistMapType,
		OpenFile: func(name string, flag int, mode os.FileMode) (*os.File, error) {
			var err error
			*handle, err = os.OpenFile(name, flag, mode)
			return *handle, err
		},
	})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, bolterrors.ErrTimeout):
		return nil, fmt.Errorf("gaelocal: the data file %s is in use by another process", path)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum), errors.Is(err, bolterrors.ErrVersionMismatch):
		return nil, fmt.Errorf("gaelocal: the data file %s is damaged, or not one of gaelocal: %w", path, err)
	default:
		return nil, fmt.Errorf("gaelocal: cannot open the data file %s: %w", path, err)
	}
}

// checkFile returns an error if the file is damaged. bbolt opens it to read, for
// which it looks at the two meta pages alone, so that it is locked meanwhile.
func checkFile(path string, handle **os.File) error {
	db, err := openBolt(path, true, handle)
	if err != nil {
		return err
	}
	info, err := (*handle).Stat()
	if err == nil {
		err = checkPages(*handle, info.Size(), db.Info().PageSize)
	}
	if err = errors.Join(err, db.Close()); err != nil {
		return fmt.Errorf("gaelocal: the data file %s is damaged: %w", path, err)
	}
	return nil
}

// warnIfShared logs a warning if others than the owner have access to the file:
// it holds the sessions of whoever uses the app.
func warnIfShared(handle *os.File) error {
	if runtime.GOOS == "windows" {
		return nil // its access rights are not in the mode
	}
	info, err := handle.Stat()
	if err != nil {
		return fmt.Errorf("gaelocal: cannot open the data file: %w", err)
	}
	if mode := info.Mode().Perm(); mode&0o077 != 0 {
		slog.Warn("gaelocal: others have access to the data file; chmod 600 ends that", "file", handle.Name(), "mode", mode)
	}
	return nil
}

// syncDir makes a new file's name durable.
func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// prepare makes the buckets that are missing and loads what is there.
func (f *file) prepare(ids *ids, load func(*entity)) error {
	complete := false
	err := f.db.View(func(tx *bolt.Tx) error {
		meta, app := tx.Bucket(bucketMeta), tx.Bucket(f.app)
		if meta == nil {
			if name, _ := tx.Cursor().First(); name != nil {
				return fmt.Errorf("gaelocal: %s is a bbolt file, but not one of gaelocal", f.path)
			}
			return nil
		}
		if format := meta.Get(keyFormat); string(format) != fileFormat {
			return fmt.Errorf("gaelocal: the data file %s has format %.20q, this gaelocal knows format %q", f.path, format, fileFormat)
		}
		if app == nil {
			return nil
		}
		complete = true
		return f.load(app, ids, load)
	})
	if err != nil || complete {
		return err
	}
	err = f.db.Update(func(tx *bolt.Tx) error {
		meta, err := tx.CreateBucketIfNotExists(bucketMeta)
		if err != nil {
			return err
		}
		if err := meta.Put(keyFormat, []byte(fileFormat)); err != nil {
			return err
		}
		app, err := tx.CreateBucketIfNotExists(f.app)
		if err != nil {
			return err
		}
		if _, err := app.CreateBucketIfNotExists(bucketEntities); err != nil {
			return err
		}
		_, err = app.CreateBucketIfNotExists(bucketIDs)
		return err
	})
	if err != nil {
		return fmt.Errorf("gaelocal: cannot create the data file %s: %w", f.path, err)
	}
	return nil
}

func (f *file) load(app *bolt.Bucket, ids *ids, load func(*entity)) error {
	entities, numbers := app.Bucket(bucketEntities), app.Bucket(bucketIDs)
	if entities == nil || numbers == nil {
		return fmt.Errorf("gaelocal: the data file %s is damaged: a bucket is missing", f.path)
	}
	ids.nextSequential = number(numbers.Get(keySequential))
	ids.nextScattered = number(numbers.Get(keyScattered))
	ids.limitSequential, ids.limitScattered = ids.nextSequential, ids.nextScattered
	return entities.ForEach(func(k, v []byte) error {
		e, err := decodeStored(v)
		if err == nil && e.key.path != string(k) {
			err = errors.New("it is stored under another key")
		}
		if err != nil {
			return fmt.Errorf("gaelocal: the data file %s is damaged: an entity cannot be read: %w", f.path, err)
		}
		load(e)
		return nil
	})
}

func number(b []byte) int64 {
	if len(b) != 8 {
		return 1
	}
	return int64(binary.BigEndian.Uint64(b))
}

func decodeStored(v []byte) (*entity, error) {
	if len(v) < 4 {
		return nil, errors.New("it is cut off")
	}
	raw := append([]byte(nil), v[4:]...)
	if crc32.Checksum(raw, castagnoli) != binary.BigEndian.Uint32(v) {
		return nil, errors.New("its checksum is wrong")
	}
	var pb wire.EntityProto
	if err := proto.Unmarshal(raw, &pb); err != nil {
		return nil, err
	}
	if len(pb.GetKey().GetPath().GetElement()) == 0 {
		return nil, errors.New("it has no key")
	}
	return indexEntity(&pb, raw), nil
}

// write makes changes durable: all of them, or none on an error.
func (f *file) write(changes []*change) error {
	if len(changes) == 0 {
		return nil
	}
	err := f.db.Update(func(tx *bolt.Tx) error {
		entities := tx.Bucket(f.app).Bucket(bucketEntities)
		for _, c := range changes {
			for _, w := range c.writes {
				if err := writeEntity(entities, w); err != nil {
					return err
				}
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("gaelocal: writing the data file %s: %w", f.path, err)
	}
	return nil
}

func writeEntity(entities *bolt.Bucket, w write) error {
	key := []byte(w.key.path)
	if w.entity == nil {
		return entities.Delete(key)
	}
	v := make([]byte, 4, 4+len(w.entity.raw))
	binary.BigEndian.PutUint32(v, crc32.Checksum(w.entity.raw, castagnoli))
	return entities.Put(key, append(v, w.entity.raw...))
}

// writeIDs makes durable below which numbers ids may have been handed out.
func (f *file) writeIDs(sequential, scattered int64) error {
	err := f.db.Update(func(tx *bolt.Tx) error {
		numbers := tx.Bucket(f.app).Bucket(bucketIDs)
		if err := numbers.Put(keySequential, binary.BigEndian.AppendUint64(nil, uint64(sequential))); err != nil {
			return err
		}
		return numbers.Put(keyScattered, binary.BigEndian.AppendUint64(nil, uint64(scattered)))
	})
	if err != nil {
		return fmt.Errorf("gaelocal: writing the data file %s: %w", f.path, err)
	}
	return nil
}

func (f *file) close() error {
	if err := f.db.Close(); err != nil {
		return fmt.Errorf("gaelocal: closing the data file %s: %w", f.path, err)
	}
	return nil
}
