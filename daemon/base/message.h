/* daemon/base/message.h — why a model is refused, in one line. What it quotes is foreign: bytes that
 * would spoil a terminal or a log become '?'.
 *
 * Thread: any. Memory: the caller's. Fails: never; what is too long is cut. */
#pragma once
#include <stdarg.h>
#include <stdio.h>

#define MESSAGE_BYTES 512u

/* Returns result, so that a check can end with it. */
__attribute__((format(printf, 3, 4))) static inline int message_refuse(char message[MESSAGE_BYTES],
                                                                       int result,
                                                                       const char *format, ...)
{
    va_list list;
    va_start(list, format);
    (void)vsnprintf(message, MESSAGE_BYTES, format, list);
    va_end(list);
    for (char *at = message; *at; at++)
        if ((unsigned char)*at < ' ' || *at == 0x7f)
            *at = '?';
    return result;
}
