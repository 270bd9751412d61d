"""Why a step is there, in a sentence or two for somebody who meets the network for the first time."""

# By the last part of a layer's name, where the place says more than the kind.
_PLACES = {
    "qkv": "Three linear maps at once: of each token they make a query (what it looks for), a key (what it "
           "offers) and a value (what it passes on), for every head.",
    "kv": "Keys (what a token offers) and values (what it passes on) are made of all tokens; the queries, of "
          "fewer.",
    "q": "Queries (what a token looks for) are made of the tokens of every second pixel in every second row alone: "
         "about a quarter of the tokens is left.",
    "projection": "Mixes what the heads have found, and makes of it as many channels as the next tokens have.",
    "up": "Each token by itself gets more channels, so that the activation has more to choose from.",
    "down": "And back to the width of the tokens. Where a BN follows, its gamma is 0 in a fresh network: the branch "
            "starts as nothing.",
    "head": "Turns the pooled token into a score (a logit) a class; trained with the true labels.",
    "head_dist": "A second head, trained to say what a teacher network says; the answer averages the two.",
    "norm": "Normalizes each token before the branch, as ViT does (ablation A3).",
}
# By the layer's class.
_LAYERS = {
    "LeViT": "The whole network: convolutions make tokens of the image, attention lets the tokens exchange what they "
             "know, and what is pooled of them is classified.",
    "Stem": "Convolutions shrink the image sixteenfold (in LeViT-256) and turn pixels into tokens: cheap there, "
            "where attention would be dear.",
    "ConvBN": "A small window slides over its input, some pixels at a step; each output channel answers to one "
              "pattern.",
    "Activation": "What makes the network more than one linear map: what is clearly negative is held back, what is "
                  "clearly positive passes.",
    "BatchNorm": "Each channel is brought to about mean beta and deviation gamma. The statistics are those seen in "
                 "training, so that in evaluation it is a scale and a shift, which can be folded into a linear map "
                 "beside it.",
    "LayerNorm": "Each token is brought to mean 0 and deviation 1 over its own channels, then scaled and shifted.",
    "ChannelBias": "A shift a channel: all that is left of BN in ablation A3.",
    "LinearBN": "The same linear map for every token, then BN: it mixes channels, never tokens.",
    "Linear": "The same linear map for every token: it mixes channels, never tokens.",
    "Stage": "Blocks at one resolution. Every stage but the first begins by shrinking: fewer tokens, mostly more "
             "channels.",
    "Block": "Attention moves information between tokens; the MLP then works on each token by itself.",
    "Downsample": "The step between two resolutions: attention with fewer queries than keys, and an MLP.",
    "Residual": "What a branch finds is added to what was there: the tokens are corrected, not replaced, and the "
                "gradient has a straight way back.",
    "PreNorm": "The branch sees normalized tokens, as in ViT (ablation A3).",
    "Attention": "Every token asks all others (query · key; with an attention bias their distance counts too), and "
                 "takes the average of their values, weighted by the answers.",
    "ShrinkingAttention": "Attention with fewer queries than keys: each token that stays gathers from all that "
                          "were there.",
    "AttentionBias": "How much a pair of pixels should attend to one another by distance alone, learned, for each "
                     "head: this replaces a position embedding.",
    "MLP": "Two linear maps with an activation between, on each token by itself: here it thinks about what it has "
           "heard.",
    "Head": "Normalizes the pooled token and turns it into a score (a logit) a class.",
    "PositionEmbedding": "A learned vector a position, as attention without bias cannot tell where a token "
                         "stands.",
    "ClassToken": "One more token, not of the image, that collects what the heads will read.",
    "CrossEntropy": "One number that says how wrong the answer is: -log of the probability of the target class. "
                    "Training makes it small; every gradient that follows is the derivative of it.",
    "Distillation": "How wrong the answer is: half by the label on the first head, half by the teacher's choice "
                    "on the second.",
}
_OPERATIONS = {
    "convolution": "Under each window: multiply by the filter, cell by cell, and sum. b: image; c, o: input and "
                   "output channel; u, v: output pixel; i, j: cell of the filter; s: stride; p: padding.",
    "normalize": "Subtract the channel's mean, divide by its deviation, scale by gamma, shift by beta.",
    "linear": "One matrix product: row n of y has the products of token n with each row of w, and b where there is "
              "one.",
    "hardswish": "Smooth around 0, exactly 0 below -3, exactly x above 3; cheaper than a sigmoid.",
    "silu": "A smooth gate: each value times its own sigmoid.",
    "identity": "Nothing happens here: the ablation without this activation.",
    "image_to_tokens": "Only the order of the numbers changes: each pixel's channels become one token, a row.",
    "split_heads": "Only the order of the numbers changes: each head gets its own share of the channels.",
    "merge_heads": "Only the order of the numbers changes: the heads' results stand side by side again.",
    "bias_index": "For each pair of pixels, how far apart they are, as a place in a table.",
    "gather_bias": "Looks the bias of each pair of pixels up in the head's table.",
    "attention": "Scores of every query with every key, softmax along the keys (each row sums to 1), then the "
                 "weighted average of the values.",
    "softmax": "Positive numbers that sum to 1, the largest score getting most.",
    "subsample": "Keeps every second pixel of every second row.",
    "average_pool": "All tokens become one: their mean.",
    "first_token": "The class token speaks for the image.",
    "prepend_token": "The class token takes its place before the others.",
    "layer_norm": "Mean and deviation over the token's own channels.",
    "targets_of": "The wanted answer as probabilities: 1 at the target class, 0 elsewhere.",
    "cross_entropy": "-log of the probability that the network gives the target.",
    "hard_distillation": "-log of the probability that the second head gives to the teacher's choice.",
    "cross_entropy_backward": "The whole lesson in one line: probabilities minus the wanted ones, a share of each "
                              "image. Too high comes out positive, too low negative.",
    "hard_distillation_backward": "Probabilities minus the teacher's choice.",
    "convolution_backward": "To the input: each gradient flows back into the window that it came from. To the "
                            "filter: each gradient times the pixel that was under the cell, summed over all "
                            "windows.",
    "normalize_backward": "A scale alone for dx, as the statistics are constants in evaluation; gamma and beta "
                          "get sums.",
    "linear_backward": "To the input through the same weights, transposed; to the weights, gradient times input, "
                       "summed over tokens.",
    "bias_backward": "The bias was added everywhere, so its gradient is the sum.",
    "hardswish_backward": "The slope of the curve at x: what was cut to 0 gets no gradient.",
    "silu_backward": "The slope of the curve at x.",
    "identity_backward": "Passed on unchanged.",
    "attention_backward": "Back through the weighted average, the softmax and the scores, to queries, keys, "
                          "values and bias.",
    "gather_bias_backward": "All pairs that used one entry of the table add their gradients to it.",
    "split_heads_backward": "The order of the numbers is put back.",
    "merge_heads_backward": "The order of the numbers is put back.",
    "subsample_backward": "Pixels that were left out had no part in the answer: their gradient is 0.",
    "average_pool_backward": "Each token had a share of 1/N in the mean, and gets that share of the gradient.",
    "first_token_backward": "The class token alone was read; all others get 0.",
    "prepend_token_backward": "The token's gradient is apart from the pixels' again.",
    "tokens_to_image": "The rows become pixels again; no number changes.",
    "layer_norm_backward": "Through the token's own mean and deviation, too.",
}
_BACKWARD = ("doutput is the slope of the loss at each output: its change for a small change there, per unit; from it "
             "follows the same for each input ")


def of_operation(name: str) -> str:
    return _OPERATIONS.get(name, "")


def of_layer(name: str, kind: str, direction: str) -> str:
    """For a layer by its name and class."""
    if direction == "backward" and kind == "LeViT":
        return "How the loss would change with each pixel: the gradient has come back to the image."
    if direction == "backward" and kind not in ("CrossEntropy", "Distillation"):
        return _BACKWARD + "(dinput) and each parameter (dweight, dgamma, …), which training moves the other way."
    wrapped = kind in ("Residual", "PreNorm")
    return _LAYERS.get(kind, "") if wrapped else _PLACES.get(name.rpartition(".")[2], _LAYERS.get(kind, ""))
