package gaelocal

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
)

// bbolt trusts its file. Some damage makes it panic on a goroutine of its own
// while it opens the file, some makes it panic at a later write, and some makes
// it search without end. So every page in use is checked before bbolt sees it:
// whatever passes is a file that bbolt could have written.
//
// A file consists of pages, and its numbers have the byte order of the machine.
// The first two pages have a meta record each, of which the newer one counts. It
// names the page with the root bucket, the number of pages, and perhaps the page
// with the free list. A bucket is a tree of branch and leaf pages; a leaf may
// have further buckets as values. A page begins with its number, its kind, how
// many elements it has and how many further pages belong to it.

const (
	boltMagic   = 0xed0cdaed
	boltVersion = 2

	pageHeader   = 16
	elementSize  = 16 // of what a page says about one element, in a branch and in a leaf
	bucketHeader = 16
	metaSize     = 64

	branchPage   = 1
	leafPage     = 2
	freelistPage = 16
	bucketFlag   = 1 // of an element in a leaf

	minPageSize = 1 << 10
	maxPageSize = 1 << 24
	maxDepth    = 64 // of pages and buckets within each other; far more than a file can fill
	noFreelist  = 1<<64 - 1
)

var native = binary.NativeEndian

// meta is what counts in a meta record.
type meta struct{ root, freelist, pages, transaction uint64 }

// checker checks the pages of a file.
type checker struct {
	file     io.ReaderAt
	pageSize uint64
	taken    []bool // pages that have been seen, by their numbers
}

// checkPages returns an error if bbolt must not open a file of that size.
func checkPages(file io.ReaderAt, size int64, pageSize int) error {
	if pageSize < minPageSize || pageSize > maxPageSize || pageSize&(pageSize-1) != 0 {
		return fmt.Errorf("its pages have %d bytes", pageSize)
	}
	m, err := newestMeta(file, pageSize)
	if err != nil {
		return err
	}
	if m.pages < 2 || m.pages > uint64(size)/uint64(pageSize) {
		return fmt.Errorf("it is cut off: %d pages of %d bytes are missing from %d bytes", m.pages, pageSize, size)
	}
	c := &checker{file, uint64(pageSize), make([]bool, m.pages)}
	c.taken[0], c.taken[1] = true, true
	if err := c.tree(m.root, 0); err != nil {
		return err
	}
	if m.freelist != noFreelist {
		return c.freelist(m.freelist)
	}
	return nil
}

// newestMeta returns the meta record that bbolt goes by.
func newestMeta(file io.ReaderAt, pageSize int) (newest meta, err error) {
	err = errors.New("it has no valid meta page")
	for i := range int64(2) {
		var page [pageHeader + metaSize]byte
		if _, err := file.ReadAt(page[:], i*int64(pageSize)); err != nil {
			return meta{}, err
		}
		b := page[pageHeader:]
		sum := fnv.New64a()
		_, _ = sum.Write(b[:metaSize-8]) // never fails
		m := meta{root: native.Uint64(b[16:]), freelist: native.Uint64(b[32:]), pages: native.Uint64(b[40:]), transaction: native.Uint64(b[48:])}
		if native.Uint32(b) == boltMagic && native.Uint32(b[4:]) == boltVersion && native.Uint64(b[56:]) == sum.Sum64() &&
			(err != nil || m.transaction > newest.transaction) {
			newest, err = m, nil
		}
	}
	return newest, err
}

// take reads a page with those that belong to it. No page may be in use twice.
func (c *checker) take(id uint64) (page []byte, err error) {
	if id >= uint64(len(c.taken)) {
		return nil, fmt.Errorf("there is no page %d", id)
	}
	page = make([]byte, c.pageSize)
	if _, err := c.file.ReadAt(page, int64(id*c.pageSize)); err != nil {
		return nil, err
	}
	if native.Uint64(page) != id {
		return nil, fmt.Errorf("page %d says that it is page %d", id, native.Uint64(page))
	}
	n := 1 + uint64(native.Uint32(page[12:]))
	if n > uint64(len(c.taken))-id {
		return nil, fmt.Errorf("page %d is longer than the file", id)
	}
	for i := id; i < id+n; i++ {
		if c.taken[i] {
			return nil, fmt.Errorf("page %d is in use twice", i)
		}
		c.taken[i] = true
	}
	if n > 1 {
		page = append(page, make([]byte, (n-1)*c.pageSize)...)
		if _, err := c.file.ReadAt(page[c.pageSize:], int64((id+1)*c.pageSize)); err != nil {
			return nil, err
		}
	}
	return page, nil
}

// tree checks the tree of a bucket, given the number of its root.
func (c *checker) tree(root uint64, depth int) error {
	page, err := c.take(root)
	if err != nil {
		return err
	}
	if _, err := c.node(page, nil, nil, depth); err != nil {
		return fmt.Errorf("%w, below page %d", err, root)
	}
	return nil
}

// bucket checks a bucket that is the value of an element: it names the root of
// its tree, or has a small leaf in it.
func (c *checker) bucket(value []byte, depth int) error {
	if len(value) < bucketHeader {
		return errors.New("a bucket is cut off")
	}
	if root := native.Uint64(value); root != 0 {
		return c.tree(root, depth)
	}
	page := value[bucketHeader:]
	if len(page) < pageHeader || native.Uint64(page) != 0 || native.Uint16(page[8:]) != leafPage {
		return errors.New("a bucket's own page is none")
	}
	elements, err := pageElements(page)
	if err != nil {
		return err
	}
	for _, e := range elements {
		if e.bucket {
			return errors.New("a bucket lies in another one's own page")
		}
	}
	_, err = c.node(page, nil, nil, depth)
	return err
}

// node checks a page and those below it, and returns how many levels these are.
// Unless they are nil, its keys begin with first and end before limit.
func (c *checker) node(page, first, limit []byte, depth int) (levels int, err error) {
	if depth > maxDepth {
		return 0, errors.New("pages lie too deep")
	}
	elements, err := pageElements(page)
	if err != nil {
		return 0, err
	}
	leaf := native.Uint16(page[8:]) == leafPage
	if len(elements) == 0 && (!leaf || first != nil) {
		return 0, errors.New("a page is empty")
	}
	for i, e := range elements {
		end := limit
		if i+1 < len(elements) {
			end = elements[i+1].key
		}
		if len(e.key) == 0 || i == 0 && first != nil && !bytes.Equal(e.key, first) || end != nil && bytes.Compare(e.key, end) >= 0 {
			return 0, errors.New("keys are not in order")
		}
		switch {
		case e.bucket:
			err = c.bucket(e.value, depth+1)
		case !leaf:
			var child []byte
			if child, err = c.take(e.child); err != nil {
				break
			}
			var below int
			if below, err = c.node(child, e.key, end, depth+1); err == nil && i > 0 && below+1 != levels {
				err = errors.New("a tree's leaves are not on one level")
			}
			levels = below + 1
		}
		if err != nil {
			return 0, err
		}
	}
	return levels, nil
}

// element is an element of a leaf or of a branch.
type element struct {
	key    []byte
	value  []byte // in a leaf
	bucket bool   // whether the value is a bucket
	child  uint64 // in a branch, the page with the keys from this one on
}

// pageElements returns the elements of a page.
func pageElements(page []byte) ([]element, error) {
	kind, count := native.Uint16(page[8:]), int(native.Uint16(page[10:]))
	if kind != leafPage && kind != branchPage {
		return nil, fmt.Errorf("a page is of kind %d", kind)
	}
	if pageHeader+count*elementSize > len(page) {
		return nil, errors.New("a page is cut off")
	}
	elements := make([]element, count)
	for i := range elements {
		rest := page[pageHeader+i*elementSize:] // positions count from here
		var at, keySize, valueSize uint64
		if kind == leafPage {
			at, keySize, valueSize = uint64(native.Uint32(rest[4:])), uint64(native.Uint32(rest[8:])), uint64(native.Uint32(rest[12:]))
			elements[i].bucket = native.Uint32(rest)&bucketFlag != 0
		} else {
			at, keySize = uint64(native.Uint32(rest)), uint64(native.Uint32(rest[4:]))
			elements[i].child = native.Uint64(rest[8:])
		}
		if at+keySize+valueSize > uint64(len(rest)) {
			return nil, errors.New("an element is longer than its page")
		}
		elements[i].key = rest[at : at+keySize]
		elements[i].value = rest[at+keySize : at+keySize+valueSize]
	}
	return elements, nil
}

// freelist checks the list of free pages. gaelocal's files have one only until
// the first write; other programs write it.
func (c *checker) freelist(id uint64) error {
	page, err := c.take(id)
	if err != nil {
		return err
	}
	if kind := native.Uint16(page[8:]); kind != freelistPage {
		return fmt.Errorf("the free list is of kind %d", kind)
	}
	count, ids := uint64(native.Uint16(page[10:])), page[pageHeader:]
	if count == 1<<16-1 { // too many for the header
		count, ids = native.Uint64(ids), ids[8:]
	}
	if count > uint64(len(ids))/8 {
		return errors.New("the free list is cut off")
	}
	for i := range count {
		free := native.Uint64(ids[8*i:])
		if free >= uint64(len(c.taken)) || c.taken[free] {
			return fmt.Errorf("page %d is in use and free", free)
		}
		c.taken[free] = true
	}
	return nil
}
