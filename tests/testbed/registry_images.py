"""The images that `registry` serves (its head lists them), made as OCI blobs and pushed over HTTP."""
import gzip
import hashlib
import http.client
import io
import json
import multiprocessing
import os
import random
import subprocess
import sys
import tarfile
import zlib

OCI = 'application/vnd.oci.image.'
DOCKER = 'application/vnd.docker.'
MTIME = 1000000000                                   # 2001-09-09, so that digests never change
BENCH_IMAGES = 5
SMALL_IMAGES = 50
PATH = 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'


def digest_of(data):
    return 'sha256:' + hashlib.sha256(data).hexdigest()


class Layer:
    """A tar being written; gives its bytes, its compressed bytes and its DiffID."""

    def __init__(self):
        self.buffer = io.BytesIO()
        self.tar = tarfile.open(fileobj=self.buffer, mode='w', format=tarfile.PAX_FORMAT)

    def add(self, path, kind=tarfile.REGTYPE, data=b'', mode=0o644, uid=0, gid=0, link='', xattrs=None, device=(0, 0)):
        info = tarfile.TarInfo(path)
        info.type, info.mode, info.uid, info.gid, info.mtime, info.linkname = kind, mode, uid, gid, MTIME, link
        info.devmajor, info.devminor = device
        info.size = len(data)
        info.pax_headers = {'SCHILY.xattr.' + k: v for k, v in (xattrs or {}).items()}
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def file(self, path, data, mode=0o644, **more):
        return self.add(path, data=data if isinstance(data, bytes) else data.encode(), mode=mode, **more)

    def dir(self, path, mode=0o755, **more):
        return self.add(path, tarfile.DIRTYPE, mode=mode, **more)

    def symlink(self, path, to, **more):
        return self.add(path, tarfile.SYMTYPE, link=to, mode=0o777, **more)

    def hardlink(self, path, to):
        return self.add(path, tarfile.LNKTYPE, link=to)

    def bytes(self):
        self.tar.close()
        return self.buffer.getvalue()


class Packed:
    """A layer as it goes to the registry.  how: gzip, fast (gzip, little compressed), members (gzip of several members),
    plain."""

    def __init__(self, layer, how='gzip'):
        raw = layer.bytes() if isinstance(layer, Layer) else layer
        self.diff_id, self.type = digest_of(raw), OCI + 'layer.v1.tar+gzip'
        if how == 'plain':
            self.data, self.type = raw, OCI + 'layer.v1.tar'
        elif how == 'members':                        # as pigz and estargz write it
            third = len(raw) // 3
            self.data = b''.join(gzip.compress(raw[a:b], 6, mtime=0) for a, b in ((0, third), (third, 2 * third), (2 * third, len(raw))))
        else:
            self.data = gzip.compress(raw, 1 if how == 'fast' else 6, mtime=0)


class Registry:
    """Pushes blobs and manifests; a blob that one repository has is mounted into the next."""

    def __init__(self, port):
        self.http = http.client.HTTPConnection('127.0.0.1', port, timeout=120)
        self.where = {}

    def call(self, method, path, body=None, headers=None, want=(200, 201, 202, 204)):
        self.http.request(method, path, body, headers or {})
        answer = self.http.getresponse()
        text = answer.read()
        if answer.status not in want:
            sys.exit(f'registry: {method} {path}: {answer.status} {text.decode(errors="replace")}')
        return answer

    def has(self, repo, tag):
        accept = ', '.join((OCI + 'manifest.v1+json', OCI + 'index.v1+json', DOCKER + 'distribution.manifest.v2+json',
                            DOCKER + 'distribution.manifest.list.v2+json'))
        return self.call('HEAD', f'/v2/{repo}/manifests/{tag}', headers={'Accept': accept}, want=(200, 404)).status == 200

    def blob(self, repo, data, digest=None, size=None):
        """data: bytes, or a file open for reading with its digest and size given."""
        digest, size = digest or digest_of(data), size or len(data)
        if self.where.get(digest) != repo:
            source = self.where.get(digest)
            answer = self.call('POST', f'/v2/{repo}/blobs/uploads/' + (f'?mount={digest}&from={source}' if source else ''))
            if answer.status != 201:
                place = answer.headers['Location']
                place = place[place.index('/v2/'):]
                self.call('PUT', f'{place}{"&" if "?" in place else "?"}digest={digest}', data,
                          {'Content-Type': 'application/octet-stream', 'Content-Length': str(size)})
            self.where.setdefault(digest, repo)
        return {'digest': digest, 'size': size}

    def document(self, repo, tag):
        """Of an OCI image."""
        self.http.request('GET', f'/v2/{repo}/manifests/{tag}', headers={'Accept': OCI + 'manifest.v1+json'})
        return json.load(self.http.getresponse())

    def push_directory(self, repo, directory):
        """What `skopeo copy` has written there, as it is."""
        with open(f'{directory}/manifest.json', encoding='utf-8') as f:
            body = json.load(f)
        for descriptor in (body['config'], *body['layers']):
            with open(f'{directory}/{descriptor["digest"][7:]}', 'rb') as f:
                self.blob(repo, f.read())
        self.manifest(repo, ['latest'], {**body, 'mediaType': OCI + 'manifest.v1+json'})

    def mount(self, repo, source, digest):
        """A blob that another repository has."""
        self.call('POST', f'/v2/{repo}/blobs/uploads/?mount={digest}&from={source}', want=(201,))

    def manifest(self, repo, tags, body):
        """Pushes under each tag, and with no tag by digest.  Returns its descriptor."""
        data = json.dumps(body).encode()
        for tag in tags or [digest_of(data)]:
            self.call('PUT', f'/v2/{repo}/manifests/{tag}', data, {'Content-Type': body['mediaType']})
        return {'mediaType': body['mediaType'], 'digest': digest_of(data), 'size': len(data)}

    def image(self, repo, tags, layers, arch='amd64', docker=False, diff_ids=None, annotations=None, **config):
        """layers: Packed, or (descriptor, diff_id) of blobs already pushed to this repository."""
        config.setdefault('Env', [PATH])
        config.setdefault('Cmd', ['sh'])
        descriptors, ids = [], []
        for layer in layers:
            if isinstance(layer, Packed):
                kind = DOCKER + 'image.rootfs.diff.tar.gzip' if docker else layer.type
                descriptors.append({'mediaType': kind, **self.blob(repo, layer.data)})
                ids.append(layer.diff_id)
            else:
                descriptors.append(layer[0])
                ids.append(layer[1])
        text = json.dumps({
            'architecture': arch, 'os': 'linux', 'created': '2001-09-09T01:46:40Z', 'config': config,
            'rootfs': {'type': 'layers', 'diff_ids': ids if diff_ids is None else diff_ids},
            'history': [{'created': '2001-09-09T01:46:40Z', 'created_by': 'userpod tests'} for _ in ids]}).encode()
        kind = DOCKER + 'container.image.v1+json' if docker else OCI + 'config.v1+json'
        return self.manifest(repo, tags, {
            'schemaVersion': 2, 'mediaType': DOCKER + 'distribution.manifest.v2+json' if docker else OCI + 'manifest.v1+json',
            'config': {'mediaType': kind, **self.blob(repo, text)}, 'layers': descriptors,
            **({'annotations': annotations} if annotations else {})})

    def artifact(self, repo, tags, kind, files):
        """An OCI artifact: files as they are, by their titles; without one where it is None."""
        layers = [{'mediaType': 'application/octet-stream', **self.blob(repo, data),
                   **({'annotations': {'org.opencontainers.image.title': title}} if title else {})} for title, data in files]
        return self.manifest(repo, tags, {
            'schemaVersion': 2, 'mediaType': OCI + 'manifest.v1+json', 'artifactType': kind,
            'config': {'mediaType': 'application/vnd.oci.empty.v1+json', **self.blob(repo, b'{}')}, 'layers': layers})

    def index(self, repo, tags, entries, docker=False):
        """entries: pairs of a descriptor and its platform."""
        self.manifest(repo, tags, {
            'schemaVersion': 2, 'mediaType': DOCKER + 'distribution.manifest.list.v2+json' if docker else OCI + 'index.v1+json',
            'manifests': [{**d, 'platform': p} for d, p in entries]})


def busybox_layer():
    path = next((p for p in ('/bin/busybox', '/usr/bin/busybox') if os.path.exists(p)), None)
    if not path or b'dynamic' in subprocess.run(['ldd', path], capture_output=True).stdout.split(b'\n')[0]:
        sys.exit('registry: no static busybox: run units/install-deps test')
    layer = Layer()
    for d, mode in (('bin', 0o755), ('sbin', 0o755), ('usr', 0o755), ('usr/bin', 0o755), ('usr/sbin', 0o755), ('etc', 0o755),
                    ('proc', 0o555), ('sys', 0o555), ('dev', 0o755), ('run', 0o755), ('home', 0o755), ('var', 0o755),
                    ('root', 0o700), ('tmp', 0o1777)):
        layer.dir(d, mode)
    with open(path, 'rb') as f:
        layer.file('bin/busybox', f.read(), 0o755)
    for applet in subprocess.run([path, '--list-full'], capture_output=True, text=True).stdout.split():
        if applet != 'bin/busybox':
            layer.symlink(applet, '/bin/busybox')
    layer.file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\ndaemon:x:1:1:daemon:/usr/sbin:/bin/false\n'
                             'nobody:x:65534:65534:nobody:/:/bin/false\n')
    layer.file('etc/group', 'root:x:0:\ndaemon:x:1:\ntty:x:5:\nnogroup:x:65534:\n')
    return layer


CAPABILITY = '\x01\x00\x00\x02\x00\x04\x00\x00' + '\x00' * 12      # cap_net_bind_service=ep, revision 2
LONG = 'long/' + 'd' * 90 + '/' + 'n' * 200


def layers_image(base):
    one = (Layer()
           .dir('data').file('data/kept', 'first\n').file('data/gone', 'x').file('data/untouched', 'lower\n')
           .dir('gonedir').file('gonedir/inner', 'x')
           .dir('opaque', 0o750, uid=7, gid=8).file('opaque/old', 'x').dir('opaque/sub').file('opaque/sub/old', 'x')
           .dir('dir-to-file').file('dir-to-file/inner', 'x').file('file-to-dir', 'x')
           .file('again', 'first'))
    two = (Layer()
           .file('data/.wh.gone', '').file('.wh.gonedir', '').file('.wh.again', '')
           .dir('opaque', 0o700, uid=9, gid=10).file('opaque/.wh..wh..opq', '').file('opaque/new', 'new\n')
           .file('dir-to-file', 'file\n').dir('file-to-dir', 0o711).file('file-to-dir/inner', 'inner\n')
           .file('data/kept', 'second\n'))
    three = (Layer()
             .dir('links').file('links/a', 'linked\n', 0o640, uid=1000, gid=2000).hardlink('links/b', 'links/a')
             .symlink('links/absolute', '/data/kept').symlink('links/relative', '../data/kept').symlink('links/dangling', '/nowhere')
             .file('setuid', 'x', 0o4755).file('setgid', 'x', 0o2755, gid=50).file('owned', 'x', 0o600, uid=1000, gid=2000)
             .file('highest', 'x', uid=65534, gid=65534).dir('sticky', 0o1777).dir('owned-dir', 0o2770, uid=33, gid=33)
             .file('xattr', 'x', xattrs={'user.test': 'value'}).file('capable', 'x', 0o755, xattrs={'security.capability': CAPABILITY})
             .add('fifo', tarfile.FIFOTYPE, mode=0o622).symlink('owned-link', 'owned', uid=1000, gid=2000)
             .dir('long').dir(os.path.dirname(LONG)).file(LONG, 'long\n').file('grün €', 'name\n').file('no-write', 'x', 0o000)
             .file('implied/parents/file', 'x'))
    four = Layer().file('again', 'fourth').file('large', bytes(range(256)) * 8192)
    tree = {}

    def expect(path, kind='file', mode=0o644, uid=0, gid=0, **more):
        tree[path] = {'type': kind, 'mode': mode, 'uid': uid, 'gid': gid, **more}
    expect('data', 'dir', 0o755, entries=['kept', 'untouched'])
    expect('data/kept', content='second\n')
    expect('data/untouched', content='lower\n')
    expect('opaque', 'dir', 0o700, 9, 10, entries=['new'])
    expect('opaque/new', content='new\n')
    expect('dir-to-file', content='file\n')
    expect('file-to-dir', 'dir', 0o711, entries=['inner'])
    expect('links/a', mode=0o640, uid=1000, gid=2000, content='linked\n', nlink=2, same='links/b')
    for name, to in (('absolute', '/data/kept'), ('relative', '../data/kept'), ('dangling', '/nowhere')):
        expect('links/' + name, 'symlink', 0o777, target=to)
    expect('owned-link', 'symlink', 0o777, 1000, 2000, target='owned')
    expect('setuid', mode=0o4755)
    expect('setgid', mode=0o2755, gid=50)
    expect('owned', mode=0o600, uid=1000, gid=2000)
    expect('highest', uid=65534, gid=65534)
    expect('sticky', 'dir', 0o1777)
    expect('owned-dir', 'dir', 0o2770, 33, 33)
    expect('xattr', xattrs={'user.test': 'value'})
    expect('capable', mode=0o755, xattr_names=['security.capability'])
    expect('fifo', 'fifo', 0o622)
    expect(LONG, content='long\n')
    expect('grün €', content='name\n')
    expect('no-write', mode=0o000)
    expect('implied/parents', 'dir', 0o755)
    expect('again', content='fourth')
    expect('large', size=256 * 8192)
    absent = ['data/gone', 'gonedir', 'opaque/old', 'opaque/sub', 'dir-to-file/inner', 'data/.wh.gone', 'opaque/.wh..wh..opq']
    packed = [base, Packed(one), Packed(two), Packed(three, 'members'), Packed(four, 'plain')]
    return packed, {'tree': tree, 'absent': absent, 'mtime': MTIME}


def killed_layers():
    """Layers that take unlike times, of many files and of few, so that a kill finds them in all states."""
    for name, files, size in (('large', 30, 12 << 20), ('many', 2000, 6 << 20), ('middle', 300, 6 << 20), ('small', 10, 2 << 20)):
        r, layer = random.Random(name), Layer().dir(name)
        for i in range(files):
            layer.file(f'{name}/{i}', r.randbytes(size // files))
        yield Packed(layer, 'fast')


ARTIFACT_FILES = (('config.json', b'{"artifact": true}\n'), ('sub/dir/data.bin', bytes(range(256)) * 1024), (None, b'no title\n'))


def usual(directory, to):
    base = Packed(busybox_layer())
    to.image('test/busybox', ['latest', '1'], [base])
    to.image('test/busybox', ['2'], [base, Packed(Layer().file('version', '2\n'))])
    layers, expected = layers_image(base)
    to.image('test/layers', ['latest'], layers)
    with open(f'{directory}/layers.json', 'w') as f:
        json.dump(expected, f, indent=1, sort_keys=True)
    to.image('test/many-layers', ['latest'], [base] + [Packed(Layer().dir('n').file(f'n/{i:03}', f'{i}\n')) for i in range(119)])
    amd64, arm64 = {'architecture': 'amd64', 'os': 'linux'}, {'architecture': 'arm64', 'os': 'linux', 'variant': 'v8'}
    other = Packed(Layer().file('arm64', 'not for this machine\n'))
    to.index('test/multi', ['latest'], [
        (to.image('test/multi', [], [other], arch='arm64'), arm64), (to.image('test/multi', [], [base]), amd64),
        (to.image('test/multi', [], [Packed(Layer().file('attestation', '{}'))], arch='unknown'), {'architecture': 'unknown', 'os': 'unknown'})])
    to.image('test/schema2', ['latest'], [base], docker=True)
    to.index('test/schema2-list', ['latest'], [
        (to.image('test/schema2-list', [], [other], arch='arm64', docker=True), arm64),
        (to.image('test/schema2-list', [], [base], docker=True), amd64)], docker=True)
    to.index('test/arm64-only', ['latest'], [(to.image('test/arm64-only', [], [other], arch='arm64'), arm64)])
    app = Packed(Layer().dir('etc')
                 .file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\napp:x:1234:1235::/home/app:/bin/sh\n')
                 .file('etc/group', 'root:x:0:\napp:x:1235:\nextra:x:1236:app\n').dir('home/app', 0o700, uid=1234, gid=1235))
    for name, user in (('user', 'app'), ('user-numeric', '1234:1235'), ('user-missing', 'nosuchuser')):
        to.image('test/' + name, ['latest'], [base, app], User=user)
    to.image('test/config', ['latest'], [base, Packed(Layer().dir('work', 0o755))], Entrypoint=['/bin/echo', 'entry'],
             Cmd=['default'], Env=[PATH, 'FROM_IMAGE=yes', 'EMPTY='], WorkingDir='/work', Labels={'org.example.label': 'value'},
             Volumes={'/volume': {}}, StopSignal='SIGUSR1', ExposedPorts={'8080/tcp': {}})
    # Nothing to run: to be mounted as a volume, with links that lead inside and out.
    to.image('test/volume', ['latest'], [
        Packed(Layer().dir('site', 0o755).dir('site/pages', 0o755).file('site/pages/index', 'page\n').file('gone', 'x').file('own', 'x', 0o600, uid=7, gid=8)),
        Packed(Layer().file('.wh.gone', '').symlink('inside', '/site/pages').symlink('outside', '../../../../../../etc/hostname')
               .symlink('process', '/proc/self/root/etc/hostname').file('setuid', '#!/bin/sh\n', 0o4755))])
    to.image('test/owners-beyond', ['latest'], [base, Packed(Layer().dir('home').file('home/owned', 'far\n', uid=1185200044, gid=1185200513)
                                                            .symlink('home/link', 'owned', uid=1185200044).file('home/near', 'near\n', uid=1000, gid=1000))])
    to.artifact('artifacts/files', ['latest'], 'application/vnd.example.files', ARTIFACT_FILES)
    family(to, base)
    to.image('test/killed', ['latest'], [base, *killed_layers()])
    # Each for one test, which may remove it.
    for name in 'abcdefghi':
        for repo, tags in (f'test/tags-{name}', ['latest', '1', '2']), (f'test/twin-{name}', ['1']):
            to.image(repo, tags, [Packed(Layer().file('tags', name, 0o755))], annotations={'org.example.note': name},
                     Labels={'org.example.label': name}, User='1234:1235')
    to.image('test/big', ['latest'], [base, Packed(Layer().file('big', random.Random(1).randbytes(20 << 20)))])


def hostile(directory, to):
    fine = Layer().file('fine', 'fine\n').bytes()

    def image(name, *layers, **more):
        to.image('hostile/' + name, ['latest'], list(layers), **more)
    image('wrong-diffid', Packed(fine), diff_ids=[digest_of(b'something else')])
    image('few-diffids', Packed(fine), Packed(Layer().file('b', 'b')), diff_ids=[digest_of(fine)])
    cut = Packed(Layer().file('noise', random.Random(2).randbytes(100000)))
    cut.data = cut.data[:60000]
    image('truncated', cut)
    noise = Packed(fine)
    noise.data = random.Random(3).randbytes(5000)
    image('not-gzip', noise)
    image('dotdot', Packed(Layer().file('../escape', 'x').dir('a').file('a/../../escape', 'x')))
    image('absolute', Packed(Layer().file('/absolute', 'inside the root\n')))
    image('symlink', Packed(Layer().symlink('link', '/var/tmp').file('link/userpod-escape', 'x')))
    image('symlink-layers', Packed(Layer().dir('a').symlink('a/link', '../../../../../../var/tmp')),
          Packed(Layer().file('a/link/userpod-escape', 'x')))
    image('hardlink', Packed(Layer().hardlink('passwd', '../../../../../../../../etc/passwd')))
    image('device', Packed(Layer().dir('dev').add('dev/mem', tarfile.CHRTYPE, mode=0o666, device=(1, 1))
                           .add('dev/disk', tarfile.BLKTYPE, mode=0o666, device=(254, 0))))
    image('whiteout', Packed(Layer().dir('a').file('a/kept', 'kept\n')), Packed(Layer().file('.wh...', '').file('a/.wh..', '')))
    bad = Packed(Layer().file('swapped', random.Random(4).randbytes(4096)))
    image('wrong-digest', bad)
    hexa = digest_of(bad.data)[7:]
    with open(f'{directory}/data/docker/registry/v2/blobs/sha256/{hexa[:2]}/{hexa}/data', 'wb') as f:
        f.write(gzip.compress(random.Random(5).randbytes(8192))[:len(bad.data)])


class Pipe:
    """Where a tar is written: counts the plain bytes' digest, compresses, counts the compressed bytes' digest."""

    def __init__(self, path):
        self.out, self.size = open(path, 'wb'), 0
        self.plain, self.packed = hashlib.sha256(), hashlib.sha256()
        self.z = zlib.compressobj(6, zlib.DEFLATED, 31)

    def put(self, data):
        self.packed.update(data)
        self.size += len(data)
        self.out.write(data)

    def write(self, data):
        self.plain.update(data)
        self.put(self.z.compress(data))
        return len(data)

    def close(self, endings):
        """The same archive with more and more zeros behind its end, which make other layers of it.
        Returns for each the last compressed bytes, behind the file's, with its digest, size and DiffID."""
        self.put(self.z.flush(zlib.Z_SYNC_FLUSH))
        self.out.close()
        made = []
        for i in range(endings):
            z, plain, packed = self.z.copy(), self.plain.copy(), self.packed.copy()
            plain.update(bytes(512 * i))
            tail = z.compress(bytes(512 * i)) + z.flush()
            packed.update(tail)
            made.append((tail, 'sha256:' + packed.hexdigest(), self.size + len(tail), 'sha256:' + plain.hexdigest()))
        return made


def bench_layer(job):
    """Text-like bytes that deflate shrinks as much as it does an ordinary image; repeats lie beyond its window."""
    path, seed, files, total = job
    r = random.Random(seed)
    words = [r.randbytes(r.randint(3, 12)) for _ in range(1500)]
    pool = b''.join(r.choices(words, [1 / (i + 8) for i in range(len(words))], k=1200000))
    sizes = [r.paretovariate(1.3) for _ in range(files)]
    scale = total / sum(sizes)
    pipe = Pipe(path)
    with tarfile.open(fileobj=pipe, mode='w|', bufsize=1 << 20) as tar:
        for i, s in enumerate(sizes):
            if i % 100 == 0:
                info = tarfile.TarInfo(f'bench/{seed}/{i // 100:03}')
                info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, MTIME
                tar.addfile(info)
            info = tarfile.TarInfo(f'bench/{seed}/{i // 100:03}/file{i}')
            info.size, info.mtime = int(s * scale), MTIME
            at = r.randrange(len(pool))
            rest = info.size - (len(pool) - at)
            data = pool[at:at + info.size] if rest <= 0 else pool[at:] + pool * (rest // len(pool)) + pool[:rest % len(pool)]
            tar.addfile(info, io.BytesIO(data))
    return path, pipe.close(2 * BENCH_IMAGES)


def with_tail(path, tail):
    with open(path, 'rb') as f:
        while data := f.read(1 << 20):
            yield data
    yield tail


PAUSE = r"""
#include <signal.h>
#include <unistd.h>
static void end(int number) { (void)number; _exit(0); }
int main(void) { signal(SIGTERM, end); for (;;) pause(); }
"""


def bench_pause(directory, to):
    """A container that ends at once at SIGTERM: as the first process of its namespace it needs a handler for that."""
    if to.has('bench/pause', 'latest'):
        return
    program = f'{directory}/pause'
    subprocess.run(['gcc', '-static', '-Os', '-s', '-x', 'c', '-o', program, '-'], input=PAUSE, text=True, check=True)
    layer = busybox_layer()
    with open(program, 'rb') as f:
        layer.file('pause', f.read(), 0o755)
    os.unlink(program)
    to.image('bench/pause', ['latest'], [Packed(layer)], Cmd=['/pause'])


def bench_small(to):
    """Many images at once: each a layer of its own on the busybox that all share."""
    base = Packed(busybox_layer())
    for i in range(SMALL_IMAGES):
        r, own = random.Random(f'small {i}'), Layer().dir('small')
        for n in range(20):
            own.file(f'small/{n}', r.randbytes(r.randint(1000, 20000)) * 3)
        to.image('bench/small', [str(i + 1)], [base, Packed(own)])


def bench(directory, to):
    bench_pause(directory, to)
    if to.has('bench/changed', str(BENCH_IMAGES)):
        return
    bench_small(to)
    jobs = [(f'{directory}/bench-{i}', i, files, mb << 20) for i, files, mb in ((1, 12000, 325), (2, 8000, 225), (3, 4000, 100))]
    with multiprocessing.Pool(min(3, os.cpu_count() or 1)) as pool:
        made = pool.map(bench_layer, jobs, chunksize=1)

    def layers(endings):
        for (path, tails), ending in zip(made, endings):
            tail, digest, size, diff_id = tails[ending]
            blob = to.blob('bench/large', with_tail(path, tail), digest, size)
            yield {'mediaType': OCI + 'layer.v1.tar+gzip', **blob}, diff_id
    for i in range(BENCH_IMAGES):
        to.image('bench/large', [str(i + 1)] + (['latest'] if i == 0 else []), list(layers((i, i, i))))
    for i in range(BENCH_IMAGES):
        changed = list(layers((i, i, BENCH_IMAGES + i)))
        for descriptor, _ in changed:
            to.mount('bench/changed', 'bench/large', descriptor['digest'])
        to.image('bench/changed', [str(i + 1)], changed)
    for path, _ in made:
        os.unlink(path)


def family(to, base):
    """Three images: a layer that all share, one that two share, one of each image's own."""
    shared, two = (Packed(Layer().dir(n).file(f'{n}/data', random.Random(n).randbytes(2 << 20)), 'fast') for n in ('shared', 'two'))
    for name, layers in (('parent', []), ('son', [two]), ('daughter', [two])):
        own = Packed(Layer().file(name, f'{name}\n').file(f'{name}-data', random.Random(name).randbytes(1 << 20)), 'fast')
        to.image(f'family/{name}', ['latest'], [base, shared, *layers, own])


def tar_header(name, size):
    """Of a file, and what follows it besides its contents; faster than tarfile for 200,000 of them."""
    head = bytearray(512)
    head[:len(name)] = name.encode()
    head[100:156] = b'0000644\0' + b'0000000\0' * 2 + b'%011o\0%011o\0' % (size, MTIME) + b' ' * 8
    head[156:165] = b'0ustar\x0000'
    head[148:156] = b'%06o\0 ' % sum(head)
    return bytes(head)


def many_files(to):
    """200,000 small files in two layers: a number each, in directories of 1000."""
    if to.has('test/many-files', 'latest'):
        return
    layers = [Packed(busybox_layer())]
    for part in range(2):
        parts = []
        for i in range(part * 100000, part * 100000 + 100000):
            data = b'%06d\n' % i
            parts += [tar_header(f'many/{i // 1000:03}/{i:06}', len(data)), data, bytes(512 - len(data))]
        layers.append(Packed(b''.join(parts) + bytes(1024), 'fast'))
    to.image('test/many-files', ['latest'], layers)


def make(directory, port, **which):
    to = Registry(port)
    if not to.has('test/big', 'latest'):
        usual(directory, to)
    if which['hostile']:
        hostile(directory, to)
    if which['formats']:
        import format_images
        format_images.make(directory, port, to)
    if which['many_files']:
        many_files(to)
    if which['bench']:
        bench(directory, to)
