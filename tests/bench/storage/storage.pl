# Measures a directory: prints `NAME MICROSECONDS` for each operation. Arguments: the directory, MiB of the large file.
use strict;
use Fcntl;
use IO::Handle;
use Time::HiRes 'time';

my ($directory, $mib) = @ARGV;
my $files = 300;
my $block = 'x' x (1 << 20);
chdir $directory or die "chdir $directory: $!";
mkdir "bench.$$" or die "mkdir: $!";
chdir "bench.$$" or die "chdir: $!";

sub timed {
    my ($name, $work) = @_;
    my $begun = time;
    $work->();
    printf "%s %.0f\n", $name, 1e6 * (time() - $begun);
}

sub opened {
    my ($name, $flags) = @_;
    sysopen my $file, $name, $flags, 0644 or die "open $name: $!";
    return $file;
}

sub synced { $_[0]->sync or die "fsync: $!" }

timed 'sequential-write' => sub {
    my $file = opened('large', O_CREAT | O_WRONLY);
    for (1 .. $mib) { syswrite($file, $block) == length $block or die "write: $!" }
    synced($file);
};
my $read = sub {
    my $file = opened('large', O_RDONLY);
    my ($total, $got) = (0, 0);
    $total += $got while $got = sysread $file, my $into, 1 << 20;
    $total == $mib << 20 or die "read $total bytes";
};
$read->();
timed 'sequential-read' => $read;
srand 1;
timed 'random-read' => sub {
    my $file = opened('large', O_RDONLY);
    for (1 .. 1000) {
        sysseek $file, 4096 * int(rand(256 * $mib)), 0 or die "seek: $!";
        sysread($file, my $into, 4096) == 4096 or die "read: $!";
    }
};
timed 'random-write' => sub {
    my $file = opened('large', O_WRONLY);
    for my $count (1 .. 256) {
        sysseek $file, 4096 * int(rand(256 * $mib)), 0 or die "seek: $!";
        syswrite($file, $block, 4096) == 4096 or die "write: $!";
        synced($file) unless $count % 16;
    }
};
timed 'create' => sub { close opened("file$_", O_CREAT | O_EXCL | O_WRONLY) for 1 .. $files };
timed 'stat' => sub { for (1 .. $files) { stat "file$_" or die "stat: $!" } };
timed 'rename' => sub { for (1 .. $files) { rename "file$_", "other$_" or die "rename: $!" } };
timed 'list' => sub {
    for (1 .. 20) {
        opendir my $list, '.' or die "opendir: $!";
        my $count = () = readdir $list;
        $count == $files + 3 or die "$count names";
    }
};
timed 'unlink' => sub { for (1 .. $files) { unlink "other$_" or die "unlink: $!" } };
unlink 'large';
chdir '..';
rmdir "bench.$$" or die "rmdir: $!";
