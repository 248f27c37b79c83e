"""Images in every format that registries have, made by Debian's skopeo of one that `registry` serves."""
import os
import shutil
import subprocess

from registry_images import OCI

SOURCE = 'test/layers'                   # five layers with all that unpacking must get right


class Skopeo:
    def __init__(self, directory, port):
        self.home, self.port = f'{directory}/skopeo', port

    def copy(self, start, end, *options):
        # A home of its own each time: no settings of the user's, and no memory of blobs in another compression that the
        # registry has already.
        shutil.rmtree(self.home, ignore_errors=True)
        os.makedirs(self.home)
        insecure = [f'--{side}-tls-verify=false' for side, name in (('src', start), ('dest', end)) if name.startswith('docker://')]
        made = subprocess.run(['/usr/bin/skopeo', '--insecure-policy', 'copy', '--quiet', *insecure, *options, start, end], check=False,
                              env={'PATH': '/usr/bin:/bin', 'HOME': self.home, 'XDG_RUNTIME_DIR': self.home}, capture_output=True, text=True)
        shutil.rmtree(self.home)
        if made.returncode:
            raise SystemExit(f'registry: skopeo copy {start} {end}: {made.stderr}')

    def place(self, name):
        return f'docker://127.0.0.1:{self.port}/{name}:latest'


def mixed(to):
    """Layers of gzip, zstd and none in one image, from three that have one kind each."""
    names = ('formats/oci', 'formats/zstd', 'formats/plain')
    documents = [to.document(name, 'latest') for name in names]
    layers = []
    for number, same in enumerate(zip(*(d['layers'] for d in documents))):
        layers.append(same[number % 3])
        to.mount('formats/mixed', names[number % 3], layers[-1]['digest'])
    if len({layer['mediaType'] for layer in layers}) != 3:
        raise SystemExit('registry: skopeo has not compressed the layers as it was told')
    to.mount('formats/mixed', 'formats/oci', documents[0]['config']['digest'])
    to.manifest('formats/mixed', ['latest'], {**documents[0], 'mediaType': OCI + 'manifest.v1+json', 'layers': layers})


def make(directory, port, to):
    if to.has('formats/mixed', 'latest'):
        return
    skopeo = Skopeo(directory, port)
    source, work = skopeo.place(SOURCE), f'{directory}/formats'
    os.makedirs(work)
    for name, kind in (('schema1', 'v2s1'), ('schema2', 'v2s2'), ('oci', 'oci')):
        skopeo.copy(source, skopeo.place(f'formats/{name}'), f'--format={kind}')
    skopeo.copy(source, f'dir:{work}/plain', '--format=oci', '--dest-decompress')
    skopeo.copy(f'dir:{work}/plain', skopeo.place('formats/zstd'), '--format=oci', '--dest-compress-format=zstd')
    # To a registry skopeo compresses, but not what an OCI archive says is not to be.
    to.push_directory('formats/plain', f'{work}/plain')
    skopeo.copy(skopeo.place('test/multi'), skopeo.place('formats/index'), '--all')
    mixed(to)
    shutil.rmtree(work)
