/* tests/ipc/ctl_peer.c: whom tests/unit/test_dynasorctl.sh lets dynasorctl meet. Runs until killed.
 *
 *   ctl_peer session PATH          a client that opened a session of one lane and does nothing
 *   ctl_peer stream PATH           a server of another kind of socket
 *   ctl_peer packet PATH [HEX]     a server that answers the first request with these bytes; without
 *                                  them it closes the connection */
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "tests/lib/raw.h"

static void answer(int fd, const char *hex)
{
    char request[4096];
    uint8_t bytes[512];
    size_t count = strlen(hex) / 2;

    CHECK(count <= sizeof(bytes), "an answer of %zu bytes", count);
    for (size_t i = 0; i < count; i++) {
        unsigned byte;
        CHECK(sscanf(hex + 2 * i, "%2x", &byte) == 1, "no hexadecimal number: %s", hex + 2 * i);
        bytes[i] = (uint8_t)byte;
    }
    CHECK(recv(fd, request, sizeof(request), 0) > 0, "no request: %m");
    if (count == 0) {
        (void)close(fd);
        return;
    }
    CHECK(send(fd, bytes, count, MSG_NOSIGNAL) == (ssize_t)count, "the answer was not taken: %m");
}

static void serve(const char *path, int type, const char *hex)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);

    CHECK(fd >= 0, "socket: %m");
    CHECK(strlen(path) < sizeof(address.sun_path), "%s is too long", path);
    memcpy(address.sun_path, path, strlen(path));
    CHECK(bind(fd, (const struct sockaddr *)&address, sizeof(address)) == 0, "%s: %m", path);
    CHECK(listen(fd, 1) == 0, "listen: %m");
    int peer = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
    CHECK(peer >= 0, "accept: %m");
    if (type == SOCK_SEQPACKET)
        answer(peer, hex);
}

int main(int argc, char **argv)
{
    static struct raw_session session;

    CHECK(argc == 3 || argc == 4, "usage: ctl_peer session|stream|packet PATH [HEX]");
    if (strcmp(argv[1], "session") == 0) {
        int r = raw_open(&session, argv[2], 1, 4096);
        CHECK(r == 0, "%s: no session: %d", argv[2], r);
    } else {
        serve(argv[2], strcmp(argv[1], "stream") == 0 ? SOCK_STREAM : SOCK_SEQPACKET,
              argc == 4 ? argv[3] : "");
    }
    for (;;)
        (void)pause();
}
