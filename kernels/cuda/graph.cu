/* kernels/cuda/graph.cu — graphs of ops.h: launches that are recorded once and then go to the device in one
 * call.
 *
 * A recording is what the stream captures between graph_begin() and graph_end(), in pieces: NCCL's
 * exchanges are captured like any launch, those by copies (group.cu) need the host, so each cuts the graph
 * in two and is made again between them at every run. Kernels, shapes, arguments and order are those of
 * the launches, so a run computes the same bits.
 *
 * A graph of kernels takes device memory when it is uploaded, which is done here and not by its first
 * run. */
#include "kernels/cuda/internal.cuh"

#include <errno.h>
#include <stdlib.h>

static bool piece_begin(struct ops_device *d)
{
    return device_enter(d) &&
           device_did(d, d->api->capture_begin(d->stream), "cudaStreamBeginCapture", "a graph");
}

/* Ends the capture whatever has failed: a stream that captures cannot be closed. */
static void piece_end(struct ops_device *d, struct graph_piece *piece)
{
    void *captured = NULL;
    (void)device_did(d, d->api->capture_end(d->stream, &captured), "cudaStreamEndCapture",
                     "a graph");
    if (device_enter(d))
        (void)device_did(d, d->api->graph_new(&piece->graph, captured), "cudaGraphInstantiate",
                         "a graph");
    if (captured)
        (void)device_did(d, d->api->capture_free(captured), "cudaGraphDestroy", "a graph");
    if (device_enter(d))
        (void)device_did(d, d->api->graph_upload(piece->graph, d->stream), "cudaGraphUpload",
                         "a graph");
}

static struct graph_piece *piece_add(struct ops_device *d)
{
    struct graph *g = d->recording;
    void *more = realloc(g->pieces, (g->pieces_count + 1) * sizeof *g->pieces);
    if (!more) {
        device_fail(d, -ENOMEM, "no memory", "a graph");
        return NULL;
    }
    g->pieces = (struct graph_piece *)more;
    struct graph_piece *piece = &g->pieces[g->pieces_count++];
    *piece = {};
    return piece;
}

void graph_cut(struct ops_device *d, const void *from, uint64_t bytes)
{
    struct graph_piece *piece = d->capturing ? piece_add(d) : NULL;
    if (!piece)
        return;
    piece->exchange_from = from;
    piece->exchange_bytes = bytes;
    piece_end(d, piece);
    d->capturing = piece_begin(d);
}

static uint64_t room_of(struct ops_device *d)
{
    uint64_t bytes = 0;
    if (device_enter(d))
        (void)device_did(d, d->api->memory_room(&bytes), "cudaMemGetInfo", "a graph");
    return bytes;
}

bool graph_begin(struct ops_device *d, uint32_t key)
{
    if (key >= OPS_GRAPHS_MAX || d->graphs[key].pieces)
        device_fail(d, -EINVAL, "a key out of range or used before", "a graph");
    d->room_before = room_of(d);
    d->capturing = piece_begin(d);
    if (d->capturing)
        d->recording = &d->graphs[key];
    return d->capturing;
}

void graph_end(struct ops_device *d)
{
    struct graph_piece *piece = d->capturing ? piece_add(d) : NULL, unused = {};
    if (d->capturing)
        piece_end(d, piece ? piece : &unused);
    d->capturing = false;
    d->recording = NULL;
    uint64_t room = room_of(d);
    d->stats.graphs_bytes += room < d->room_before ? d->room_before - room : 0;
}

/* A piece that fails does not keep this rank from the exchanges, where others wait. */
bool graph_run(struct ops_device *d, uint32_t key)
{
    const struct graph *g = key < OPS_GRAPHS_MAX ? &d->graphs[key] : NULL;
    if (!g || !g->pieces || !device_enter(d))
        return false;
    for (uint32_t i = 0; i < g->pieces_count; i++) {
        const struct graph_piece *piece = &g->pieces[i];
        if (device_enter(d))
            (void)device_did(d, d->api->graph_launch(piece->graph, d->stream), "cudaGraphLaunch",
                             "a step");
        if (piece->exchange_bytes)
            group_exchange(d, piece->exchange_from, piece->exchange_bytes);
    }
    d->stats.graph_runs_count++;
    return true;
}

void graphs_close(struct ops_device *d)
{
    for (uint32_t key = 0; key < OPS_GRAPHS_MAX; key++) {
        struct graph *g = &d->graphs[key];
        for (uint32_t i = 0; i < g->pieces_count; i++)
            if (g->pieces[i].graph)
                (void)d->api->graph_free(g->pieces[i].graph); /* as device_close() */
        free(g->pieces);
        *g = {};
    }
}
